{{- define "foresail.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Whether a volume is claimed: one pod alone can hold it, so not with a log in PostgreSQL. */}}
{{- define "foresail.volume" -}}
{{- if and .Values.persistence.enabled (not (include "foresail.auditIsPostgres" .)) -}}true{{- end -}}
{{- end -}}
