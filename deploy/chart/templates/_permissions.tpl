{{/*
What each feature may do: the rules of controller/adapters/kube/permissions.py, to which a test holds them. Each define
returns YAML with one key, rules; the roles and the admission policy that refuses everything else are made of them.
*/}}

{{- define "foresail.kinds" -}}
Deployment: {group: apps, resource: deployments}
StatefulSet: {group: apps, resource: statefulsets}
LeaderWorkerSet: {group: leaderworkerset.x-k8s.io, resource: leaderworkersets}
Rollout: {group: argoproj.io, resource: rollouts}
HTTPRoute: {group: gateway.networking.k8s.io, resource: httproutes}
VirtualService: {group: networking.istio.io, resource: virtualservices}
InferencePool: {group: inference.networking.k8s.io, resource: inferencepools}
ScaledObject: {group: keda.sh, resource: scaledobjects}
VerticalPodAutoscaler: {group: autoscaling.k8s.io, resource: verticalpodautoscalers}
{{- end -}}

{{- define "foresail.rules.workloads" -}}
{{- $kinds := fromYaml (include "foresail.kinds" .) -}}
{{- $on := .Values.features -}}
rules:
  - {apiGroups: [""], resources: [pods, events], verbs: [get, list, watch]}
  - {apiGroups: [apps], resources: [replicasets, controllerrevisions], verbs: [get, list, watch]}
  - {apiGroups: [policy], resources: [poddisruptionbudgets], verbs: [get, list, watch]}
  - {apiGroups: [autoscaling], resources: [horizontalpodautoscalers], verbs: [get, list, watch]}
{{- range concat .Values.kinds .Values.beside .Values.routes }}
{{- with get $kinds . }}
  - {apiGroups: [{{ .group }}], resources: [{{ .resource }}], verbs: [get, list, watch]}
{{- end }}
{{- end }}
{{- range .Values.customKinds }}
  - {apiGroups: [{{ .group }}], resources: [{{ .plural }}], verbs: [get, list, watch]}
{{- end }}
{{- if $on.scale }}
{{- range .Values.kinds }}
{{- with get $kinds . }}
  - {apiGroups: [{{ .group }}], resources: [{{ .resource }}/scale], verbs: [get, update, patch]}
{{- end }}
{{- end }}
{{- range .Values.customKinds }}
  - {apiGroups: [{{ .group }}], resources: [{{ .plural }}/scale], verbs: [get, update, patch]}
{{- end }}
{{- end }}
{{- if $on.cordon }}
  - {apiGroups: [""], resources: [pods], verbs: [patch]}
{{- end }}
{{- if $on.restart }}
  - {apiGroups: [""], resources: [pods/eviction], verbs: [create]}
{{- end }}
{{- if $on.delete }}
  - {apiGroups: [""], resources: [pods], verbs: [delete]}
{{- end }}
{{- if $on.rollBack }}
{{- range .Values.kinds }}
{{- with get $kinds . }}
  - {apiGroups: [{{ .group }}], resources: [{{ .resource }}], verbs: [update, patch]}
{{- end }}
{{- end }}
{{- if has "Rollout" .Values.kinds }}
  - {apiGroups: [argoproj.io], resources: [rollouts/status], verbs: [get, patch]}
{{- end }}
{{- end }}
{{- if $on.route }}
  - {apiGroups: [""], resources: [services], verbs: [get, list, watch]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
{{- range .Values.routes }}
{{- with get $kinds . }}
  - apiGroups: [{{ .group }}]
    resources: [{{ .resource }}]
    verbs: [update, patch]
{{- if $.Values.routeNames }}
    resourceNames: {{ toJson $.Values.routeNames }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if $on.events }}
  - {apiGroups: [""], resources: [events], verbs: [create, patch]}
{{- end }}
{{- if $on.policies }}
  - {apiGroups: [foresail.dev], resources: [scalingpolicies], verbs: [get, list, watch]}
  - {apiGroups: [foresail.dev], resources: [scalingpolicies/status], verbs: [get, update, patch]}
{{- end }}
{{- end -}}

{{- define "foresail.rules.own" -}}
{{- if .Values.features.lease -}}
rules:
  - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    verbs: [get, update, patch]
    resourceNames: [{{ fromJsonArray (include "foresail.leases" .) | join ", " }}]
{{- else -}}
rules: []
{{- end -}}
{{- end -}}

{{/* In the namespace of Events of what is in none. */}}
{{- define "foresail.rules.eventsOfNodes" -}}
{{- if and .Values.features.events .Values.features.avoidNodes -}}
rules:
  - {apiGroups: [""], resources: [events], verbs: [create, patch]}
{{- else -}}
rules: []
{{- end -}}
{{- end -}}

{{- define "foresail.rules.cluster" -}}
{{- if or .Values.features.nodes .Values.features.avoidNodes -}}
rules:
{{- if .Values.features.nodes }}
  - {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
{{- end }}
{{- if .Values.features.avoidNodes }}
  - {apiGroups: [""], resources: [nodes], verbs: [get, patch]}
{{- end }}
{{- else -}}
rules: []
{{- end -}}
{{- end -}}

{{/* Of rules, what they let be written, as JSON: group/resource -> operations of admission. */}}
{{- define "foresail.writes" -}}
{{- $operations := dict "create" "CREATE" "update" "UPDATE" "patch" "UPDATE" "delete" "DELETE" -}}
{{- $writes := dict -}}
{{- range .rules -}}
{{- $rule := . -}}
{{- range $rule.resources -}}
{{- $target := printf "%s/%s" (first $rule.apiGroups) . -}}
{{- range $rule.verbs -}}
{{- with get $operations . -}}
{{- $_ := set $writes $target (get $writes $target | default list | concat (list .) | uniq | sortAlpha) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $writes -}}
{{- end -}}
