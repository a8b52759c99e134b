{{/*
Expressions of the admission policies. A field of an object or of a request that is empty is not there, so that each is
asked for with has() first; an expression that fails refuses the request.
*/}}

{{/* The head of a policy and its binding. Needs root, name; rules, variables and validations follow. */}}
{{- define "foresail.admission.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "foresail.clusterName" .root }}-{{ .name }}
  labels: {{- include "foresail.labels" .root | nindent 4 }}
spec:
  policyName: {{ include "foresail.clusterName" .root }}-{{ .name }}
  validationActions: [Deny]
{{- end -}}

{{- define "foresail.admission.head" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ include "foresail.clusterName" .root }}-{{ .name }}
  labels: {{- include "foresail.labels" .root | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConditions:
    - name: foresail
      expression: request.userInfo.username == {{ include "foresail.user" .root | squote }}
{{- end -}}

{{/* Two maps are the same but for some keys. Needs new, old, but (a list). */}}
{{- define "foresail.cel.sameBut" -}}
{{ .new }}.all(k, k in {{ .but | toJson }} || (k in {{ .old }} && {{ .new }}[k] == {{ .old }}[k])) && {{ .old }}.all(k, k in {{ .but | toJson }} || k in {{ .new }})
{{- end -}}

{{/* Variables for what metadata may hold. */}}
{{- define "foresail.cel.metadata" -}}
- name: labels
  expression: "has(object.metadata.labels) ? object.metadata.labels : {}"
- name: oldLabels
  expression: "has(oldObject.metadata.labels) ? oldObject.metadata.labels : {}"
- name: annotations
  expression: "has(object.metadata.annotations) ? object.metadata.annotations : {}"
- name: oldAnnotations
  expression: "has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}"
- name: finalizers
  expression: "has(object.metadata.finalizers) ? object.metadata.finalizers : []"
- name: oldFinalizers
  expression: "has(oldObject.metadata.finalizers) ? oldObject.metadata.finalizers : []"
- name: owners
  expression: "has(object.metadata.ownerReferences) ? object.metadata.ownerReferences : []"
- name: oldOwners
  expression: "has(oldObject.metadata.ownerReferences) ? oldObject.metadata.ownerReferences : []"
{{- end -}}

{{/* Validations: labels as they were but for some keys, annotations but for some keys and those of foresail.dev. */}}
{{- define "foresail.cel.sameMetadata" -}}
- expression: >-
    {{ include "foresail.cel.sameBut" (dict "new" "variables.labels" "old" "variables.oldLabels" "but" .labels) }}
  message: {{ .message.labels | quote }}
- expression: >-
    variables.annotations.all(k, k in {{ toJson .annotations }} || k.startsWith("foresail.dev/") || (k in variables.oldAnnotations && variables.annotations[k] == variables.oldAnnotations[k])) && variables.oldAnnotations.all(k, k in {{ toJson .annotations }} || k.startsWith("foresail.dev/") || k in variables.annotations)
  message: {{ .message.annotations | quote }}
- expression: variables.finalizers == variables.oldFinalizers && variables.owners == variables.oldOwners
  message: Foresail changes neither finalizers nor owners
{{- end -}}

{{/*
Only the weights in a route differ. Needs rules (the list in spec), refs (the list in a rule). Lists have at most 16
entries, which the Gateway API allows and which is asked of others; an index beyond an end is not looked at.
*/}}
{{- define "foresail.cel.onlyWeights" -}}
{{- $indices := list 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 | toJson -}}
{{- $new := printf "object.spec.%s[i]" .rules -}}{{- $old := printf "oldObject.spec.%s[i]" .rules -}}
- expression: >-
    {{ include "foresail.cel.sameBut" (dict "new" "dyn(object.spec)" "old" "dyn(oldObject.spec)" "but" (list .rules)) }}
  message: of a route Foresail changes weights alone, and this changes something beside its rules
- expression: >-
    has(object.spec.{{ .rules }}) && has(oldObject.spec.{{ .rules }}) && size(object.spec.{{ .rules }}) == size(oldObject.spec.{{ .rules }}) && size(object.spec.{{ .rules }}) <= 16
  message: of a route Foresail changes weights alone, and this has another number of rules, or more than 16
- expression: >-
    {{ $indices }}.all(i, i >= size(object.spec.{{ .rules }}) || ({{ include "foresail.cel.sameBut" (dict "new" (printf "dyn(%s)" $new) "old" (printf "dyn(%s)" $old) "but" (list .refs)) }}))
  message: of a route Foresail changes weights alone, and this changes what a rule matches, filters or waits for
- expression: >-
    {{ $indices }}.all(i, i >= size(object.spec.{{ .rules }}) || has({{ $new }}.{{ .refs }}) == has({{ $old }}.{{ .refs }}) && (!has({{ $new }}.{{ .refs }}) || size({{ $new }}.{{ .refs }}) == size({{ $old }}.{{ .refs }}) && size({{ $new }}.{{ .refs }}) <= 16 && {{ $indices }}.all(j, j >= size({{ $new }}.{{ .refs }}) || ({{ include "foresail.cel.sameBut" (dict "new" (printf "dyn(%s.%s[j])" $new .refs) "old" (printf "dyn(%s.%s[j])" $old .refs) "but" (list "weight")) }}))))
  message: of a route Foresail changes weights alone, and this changes where it leads
{{- end -}}

{{/* The pod templates of a workload: one, or two of a LeaderWorkerSet. */}}
{{- define "foresail.cel.templates" -}}
(has({{ . }}.spec.template) ? [{{ . }}.spec.template] : []) + (has({{ . }}.spec.leaderWorkerTemplate) && has({{ . }}.spec.leaderWorkerTemplate.workerTemplate) ? [{{ . }}.spec.leaderWorkerTemplate.workerTemplate] : []) + (has({{ . }}.spec.leaderWorkerTemplate) && has({{ . }}.spec.leaderWorkerTemplate.leaderTemplate) ? [{{ . }}.spec.leaderWorkerTemplate.leaderTemplate] : [])
{{- end -}}

{{/* Whether one of some pod templates shares a namespace of its host, or has a privileged container. */}}
{{- define "foresail.cel.hostNamespace" -}}
{{ . }}.exists(t, (has(t.spec.hostNetwork) && t.spec.hostNetwork) || (has(t.spec.hostPID) && t.spec.hostPID) || (has(t.spec.hostIPC) && t.spec.hostIPC))
{{- end -}}

{{- define "foresail.cel.privileged" -}}
{{- $one := "has(c.securityContext) && has(c.securityContext.privileged) && c.securityContext.privileged" -}}
{{ . }}.exists(t, t.spec.containers.exists(c, {{ $one }}) || (has(t.spec.initContainers) && t.spec.initContainers.exists(c, {{ $one }})))
{{- end -}}
