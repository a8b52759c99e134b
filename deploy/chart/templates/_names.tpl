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

{{- define "foresail.kedaName" -}}
{{ include "foresail.name" . }}-keda
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

{{/* The chart once for each shard, as a list in JSON: what is added to names, and its number; one without either by default. */}}
{{- define "foresail.shards" -}}
{{- $shards := list -}}
{{- if gt (int .Values.shards) 1 -}}
{{- range $index := until (int .Values.shards) -}}
{{- $shards = append $shards (dict "suffix" (printf "-%d" $index) "index" (toString $index)) -}}
{{- end -}}
{{- else -}}
{{- $shards = append $shards (dict "suffix" "" "index" "") -}}
{{- end -}}
{{- toJson $shards -}}
{{- end -}}

{{/* Labels by which the pods of one shard are told. Needs root, index. */}}
{{- define "foresail.shardSelector" -}}
{{ include "foresail.selector" .root }}
{{- if .index }}
foresail.dev/shard: {{ .index | quote }}
{{- end }}
{{- end -}}

{{/* Names of all leases, as a list in JSON. */}}
{{- define "foresail.leases" -}}
{{- $name := include "foresail.name" . -}}
{{- $leases := list $name -}}
{{- $of := int .Values.shards -}}
{{- if gt $of 1 -}}
{{- range $index := until $of -}}{{- $leases = append $leases (printf "%s-%d-of-%d" $name $index $of) -}}{{- end -}}
{{- end -}}
{{- toJson $leases -}}
{{- end -}}
