{{- define "foresail.name" -}}
{{- if contains "foresail" .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-foresail" .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "foresail.selector" -}}
app.kubernetes.io/name: foresail
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "foresail.labels" -}}
{{ include "foresail.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "foresail.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "foresail.name" .) -}}
{{- end -}}

{{- define "foresail.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "foresail.serviceAccount" . }}
{{- end -}}

{{/* Names of objects outside the namespace of the release carry it: releases of one name would share them. */}}
{{- define "foresail.clusterName" -}}
{{ .Release.Namespace }}-{{ include "foresail.name" . }}
{{- end -}}

{{- define "foresail.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: say where your cluster pulls the image from" $image.repository -}}
{{- if $image.digest -}}{{ $repository }}@{{ $image.digest }}
{{- else -}}{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "foresail.namespaces" -}}
{{- .Values.namespaces | default (list .Release.Namespace) | sortAlpha | uniq | toJson -}}
{{- end -}}
