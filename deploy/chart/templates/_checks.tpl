{{/* Values that contradict each other, by what they are about; foresail.checks in _settings.tpl asks all of them. */}}

{{- define "foresail.checks.keda" -}}
{{- $daemon := (fromYaml (include "foresail.settings" .)).daemon -}}
{{- $keda := get $daemon "keda" -}}
{{- if and (kindIs "map" $keda) (not .Values.keda.enabled) -}}
{{- fail "settings.daemon.keda is set, and keda.enabled is false: set that, which opens the port as well" -}}
{{- end -}}
{{- if and .Values.keda.enabled (not (and (kindIs "map" $keda) (hasSuffix ":9465" (dig "address" "" ($keda | default dict))))) -}}
{{- fail "settings.daemon.keda: with keda.enabled the chart's Service leads to port 9465, and this is no address with it" -}}
{{- end -}}
{{- end -}}

{{/* Features that are nothing without another one, and the lease that the role names. */}}
{{- define "foresail.checks.features" -}}
{{- $on := .Values.features -}}
{{- if and $on.avoidNodes (not $on.nodes) -}}
{{- fail "features.avoidNodes is true, and features.nodes is false: a node that is not read is not written to either; set both" -}}
{{- end -}}
{{- if and $on.delete (not $on.restart) -}}
{{- fail "features.delete is true, and features.restart is false: only what cannot be evicted is deleted; set both" -}}
{{- end -}}
{{- $platform := (fromYaml (include "foresail.settings" .)).platform | default dict -}}
{{- $lease := get $platform "lease" -}}
{{- if and (eq (get $platform "kind" | default "") "kubernetes") $lease -}}
{{- if not $on.lease -}}
{{- fail "settings.platform.lease is set, and features.lease is false: set that, which names the lease as well" -}}
{{- end -}}
{{- if or (ne (get $lease "name" | default "foresail") (include "foresail.name" .)) (ne (get $lease "namespace" | default "default") .Release.Namespace) -}}
{{- fail (printf "settings.platform.lease is another than the role grants, %s in %s: leave its name and namespace out" (include "foresail.name" .) .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A pod that is killed before its last tick has ended leaves acts without an outcome on record. */}}
{{- define "foresail.checks.ending" -}}
{{- $daemon := (fromYaml (include "foresail.settings" .)).daemon -}}
{{- if lt (float64 .Values.terminationGracePeriodSeconds) (addf 4.0 (get $daemon "stop_within_s" | default 20.0)) -}}
{{- fail "terminationGracePeriodSeconds is less than settings.daemon.stop_within_s and the 4 s that ending takes besides: a tick would be cut off" -}}
{{- end -}}
{{- end -}}
