{{/* What is read and done in the cluster, from the values that grant the rights to it. */}}
{{- define "foresail.platform" -}}
{{- $on := .Values.features -}}
{{- $platform := dict
  "kind" "kubernetes"
  "namespaces" (fromJsonArray (include "foresail.namespaces" .))
  "kinds" .Values.kinds
  "autoscalers" (concat (list "HorizontalPodAutoscaler") (without .Values.beside "InferencePool"))
  "by_inference_pools" (has "InferencePool" .Values.beside)
  "nodes" $on.nodes
  "events" $on.events
  "policies" $on.policies
  "delete_unevictable" $on.delete
-}}
{{- if $on.lease -}}
{{- $_ := set $platform "lease" (dict "namespace" .Release.Namespace "name" (include "foresail.name" .)) -}}
{{- end -}}
{{- toYaml $platform -}}
{{- end -}}

{{- define "foresail.settings" -}}
{{- $own := fromYaml (include "foresail.ownSettings" .) -}}
{{- if gt (int .Values.shards) 1 -}}
{{- $shard := dict "of" (int .Values.shards) -}}
{{- $several := dict
  "audit" (dict "url" "sqlite:////var/lib/foresail/audit-{shard}.db")
  "approvals" (dict "folder" "/var/lib/foresail/approvals-{shard}")
  "daemon" (dict "shard" $shard)
-}}
{{- $own = mustMergeOverwrite $own $several -}}
{{- end -}}
{{- toYaml (mustMergeOverwrite $own (deepCopy .Values.settings)) -}}
{{- end -}}

{{- define "foresail.ownSettings" -}}
{{- $own := dict
  "platform" (fromYaml (include "foresail.platform" .))
  "audit" (dict "url" "sqlite:////var/lib/foresail/audit.db")
  "registry" (dict "store" "sqlite:////var/lib/foresail/mlflow.db" "cache" "/var/cache/foresail/models")
  "daemon" (dict
    "kill_switch" "/etc/foresail-stop/STOP"
    "status" (dict "address" "0.0.0.0:9464" "public" true)
  )
  "approvals" (dict "folder" "/var/lib/foresail/approvals")
-}}
{{- if .Values.keda.enabled -}}
{{- $_ := set $own.daemon "keda" (dict "address" "0.0.0.0:9465" "public" true) -}}
{{- end -}}
{{- if ne (get (get .Values.settings "platform" | default dict) "kind" | default "kubernetes") "kubernetes" -}}
{{- $_ := unset $own "platform" -}}
{{- end -}}
{{- toYaml $own -}}
{{- end -}}

{{/* The settings of one shard, which differ from those of others by its number. Needs root, index. */}}
{{- define "foresail.settingsOf" -}}
{{- $settings := fromYaml (include "foresail.settings" .root) -}}
{{- if .index -}}
{{- $settings = mustMergeOverwrite $settings (dict "daemon" (dict "shard" (dict "index" (int .index)))) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "foresail.auditUrl" -}}
{{- get (get (fromYaml (include "foresail.settings" .)) "audit") "url" -}}
{{- end -}}

{{- define "foresail.auditIsPostgres" -}}
{{- if hasPrefix "postgres" (include "foresail.auditUrl" .) -}}true{{- end -}}
{{- end -}}

{{- define "foresail.replicas" -}}
{{- if not (kindIs "invalid" .Values.replicas) -}}{{ int .Values.replicas }}
{{- else if and (include "foresail.auditIsPostgres" .) .Values.features.lease -}}2
{{- else -}}1
{{- end -}}
{{- end -}}

{{/* Every mode of one class of action, of the fleet and of single workloads. */}}
{{- define "foresail.modesOf" -}}
{{- $modes := .modes -}}{{- $class := .class -}}
{{- $found := list (get $modes $class | default "observe") -}}
{{- range values (get $modes "workloads" | default dict) -}}
{{- with get . $class -}}{{- $found = append $found . -}}{{- end -}}
{{- end -}}
{{- $found | uniq | toJson -}}
{{- end -}}

{{- define "foresail.mayAct" -}}
{{- $found := fromJsonArray (include "foresail.modesOf" .) -}}
{{- if or (has "approve" $found) (has "auto" $found) -}}true{{- end -}}
{{- end -}}

{{/* Values that contradict each other are refused before anything is installed. */}}
{{- define "foresail.checks" -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false, and serviceAccount.name is empty: name the one to be used" -}}
{{- end -}}
{{- if not (hasSuffix ":9464" (fromYaml (include "foresail.settings" .)).daemon.status.address) -}}
{{- fail "settings.daemon.status.address: the chart's probes ask port 9464" -}}
{{- end -}}
{{- $settings := fromYaml (include "foresail.settings" .) -}}
{{- include "foresail.checks.keda" . -}}
{{- include "foresail.checks.features" . -}}
{{- include "foresail.checks.ending" . -}}
{{- range $key, $url := dict "audit.url" $settings.audit.url "registry.store" $settings.registry.store "prometheus.url" (dig "prometheus" "url" "" $settings) -}}
{{- if regexMatch "://[^/@]*:[^/@]*@|[?&](password|sslpassword)=" $url -}}
{{- fail (printf "settings.%s holds a password, and a ConfigMap is no place for one: give it by postgres.passfileSecret, or by secretFiles" $key) -}}
{{- end -}}
{{- end -}}
{{- $modes := get .Values.settings "modes" | default dict -}}
{{- $on := .Values.features -}}
{{- if and (include "foresail.mayAct" (dict "modes" $modes "class" "scaling")) (not $on.scale) -}}
{{- fail "settings.modes.scaling lets replicas be scaled, and features.scale is false: set it, or choose observe or recommend" -}}
{{- end -}}
{{- if and (include "foresail.mayAct" (dict "modes" $modes "class" "traffic")) (not $on.route) -}}
{{- fail "settings.modes.traffic lets weights be set, and features.route is false: set it and name routes, or choose observe or recommend" -}}
{{- end -}}
{{- if and (include "foresail.mayAct" (dict "modes" $modes "class" "healing")) (not (and $on.cordon $on.restart)) -}}
{{- fail "settings.modes.healing lets pods be cordoned and restarted, and features.cordon or features.restart is false: set both, or choose observe or recommend" -}}
{{- end -}}
{{- if and $on.route (not .Values.routes) -}}
{{- fail "features.route is true, and routes is empty: name HTTPRoute or VirtualService" -}}
{{- end -}}
{{- if and $on.scale .Values.admissionPolicy.enabled (not .Values.workloads) -}}
{{- fail "features.scale is true, and workloads is empty: name each workload with its bounds, for the admission policy refuses every other" -}}
{{- end -}}
{{- $namespaces := fromJsonArray (include "foresail.namespaces" .) -}}
{{- range .Values.workloads -}}
{{- if not (has .namespace $namespaces) -}}
{{- fail (printf "workloads: %s/%s is in none of namespaces" .namespace .name) -}}
{{- end -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "workloads: %s/%s has a minReplicas above its maxReplicas" .namespace .name) -}}
{{- end -}}
{{- end -}}
{{- if ne (int (dig "shard" "of" 1 $settings.daemon)) (int .Values.shards) -}}
{{- fail "settings.daemon.shard.of is filled in from shards: set that alone, or some shards would have no Deployment" -}}
{{- end -}}
{{- if gt (int .Values.shards) 1 -}}
{{- if not $on.lease -}}
{{- fail "shards is more than 1, and features.lease is false: without leases two of them could act on one workload" -}}
{{- end -}}
{{- if .Values.persistence.existingClaim -}}
{{- fail "shards is more than 1, and persistence.existingClaim names one volume: leave it empty, so that each shard claims its own" -}}
{{- end -}}
{{- if not (contains "{shard}" $settings.audit.url) -}}
{{- fail "shards is more than 1, and settings.audit.url is one log for all: put {shard} into the name of its database" -}}
{{- end -}}
{{- if .Values.keda.enabled -}}
{{- fail "shards is more than 1, and keda.enabled is true: KEDA asks one address, and each shard answers for its own pools" -}}
{{- end -}}
{{- end -}}
{{- $replicas := int (include "foresail.replicas" .) -}}
{{- if gt $replicas 1 -}}
{{- if not (include "foresail.auditIsPostgres" .) -}}
{{- fail "replicas is more than 1: that needs a PostgreSQL audit log (settings.audit.url), for one process alone writes a SQLite file" -}}
{{- end -}}
{{- if not $on.lease -}}
{{- fail "replicas is more than 1, and features.lease is false: without a leader they would all act" -}}
{{- end -}}
{{- $leases := list (get $settings.platform "lease") -}}
{{- range values (get $settings.platform "members" | default dict) -}}{{- $leases = append $leases (get . "lease") -}}{{- end -}}
{{- if not (compact $leases) -}}
{{- fail "replicas is more than 1, and settings.platform names no lease: give one of its members one" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The port of a URL, for the network policy. */}}
{{- define "foresail.portOf" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" (get $url "host") | trimPrefix ":" -}}
{{- $schemes := dict "https" "443" "postgresql" "5432" -}}
{{- $port | default (get $schemes (get $url "scheme" | splitList "+" | first)) | default "80" -}}
{{- end -}}
