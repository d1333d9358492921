{{- /* What `snugfit config kube-scheduler` prints, with the reasons for each line. A test holds the
two together. */ -}}
{{- define "snugfit.kubeSchedulerConfiguration" -}}
{{- $sidecar := eq .Values.topology "sidecar" -}}
{{- $packing := eq .Values.scheduler.profile "packing" -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  qps: 200
  burst: 400
leaderElection:
  leaderElect: true
  {{- if $sidecar }}
  resourceName: {{ .Values.scheduler.name }}
  resourceNamespace: {{ .Release.Namespace }}
  {{- else }}
  resourceName: kube-scheduler
  resourceNamespace: kube-system
  {{- end }}
percentageOfNodesToScore: 100
profiles:
  {{- if not $sidecar }}
  {{- if ne .Values.scheduler.name "default-scheduler" }}
  - schedulerName: default-scheduler
  {{- else if $packing }}
  {{- fail "profile packing would take scoring away from every pod of the cluster: set scheduler.profile=stock or another scheduler.name" }}
  {{- end }}
  {{- else if eq .Values.scheduler.name "default-scheduler" }}
  {{- fail "default-scheduler is served by the control plane: set another scheduler.name" }}
  {{- end }}
  - schedulerName: {{ .Values.scheduler.name }}
  {{- if $packing }}
    plugins:
      {{- if .Values.scheduler.fallback }}
      preScore:
        disabled: [{name: '*'}]
        enabled: [{name: NodeResourcesFit}]
      score:
        disabled: [{name: '*'}]
        enabled: [{name: NodeResourcesFit, weight: 1}]
    pluginConfig:
      - name: NodeResourcesFit
        args:
          scoringStrategy:
            type: MostAllocated
            resources:
              - {name: cpu, weight: 1}
              - {name: memory, weight: 1}
              {{- range .Values.scheduler.managedResources }}
              {{- if has . (list "nvidia.com/gpu" "amd.com/gpu" "snugfit.io/gpu-milli") }}
              - {name: {{ . }}, weight: 10}
              {{- end }}
              {{- end }}
      {{- else }}
      preScore:
        disabled: [{name: '*'}]
      score:
        disabled: [{name: '*'}]
      {{- end }}
  {{- end }}
{{- $whole := list }}
{{- $ours := list }}
{{- range .Values.scheduler.managedResources }}
{{- if or (hasPrefix "snugfit.io/" .) (hasPrefix "aliyun.com/" .) }}
{{- $ours = append $ours . }}
{{- else }}
{{- $whole = append $whole . }}
{{- end }}
{{- end }}
extenders:
  {{- with $whole }}
  {{- include "snugfit.extender" (dict "root" $ "resources" . "bind" false) | nindent 2 }}
  {{- end }}
  {{- with $ours }}
  # The same extender again, for the pods that it has to bind itself: their Binding names the device.
  {{- include "snugfit.extender" (dict "root" $ "resources" . "bind" true) | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "snugfit.extender" -}}
{{- $values := .root.Values -}}
{{- if eq $values.topology "sidecar" -}}
- urlPrefix: http://127.0.0.1:10262{{ include "snugfit.urlPrefix" .root }}
{{- else -}}
{{- $address := $values.service.clusterIP | default (include "snugfit.serviceHost" .root) -}}
- urlPrefix: https://{{ ternary (printf "[%s]" $address) $address (contains ":" $address) }}:{{ $values.service.port }}{{ include "snugfit.urlPrefix" .root }}
  tlsConfig:
    caFile: /etc/kubernetes/snugfit/ca.crt
    certFile: /etc/kubernetes/snugfit/tls.crt
    keyFile: /etc/kubernetes/snugfit/tls.key
    {{- if $values.service.clusterIP }}
    serverName: {{ include "snugfit.serviceHost" .root }}
    {{- end }}
{{- end }}
  filterVerb: filter
  prioritizeVerb: prioritize
  preemptVerb: preempt
  {{- if .bind }}
  bindVerb: bind
  {{- end }}
  nodeCacheCapable: true
  weight: {{ $values.scheduler.weight }}
  httpTimeout: {{ $values.scheduler.httpTimeout }}
  ignorable: false
  managedResources:
    {{- range .resources }}
    - {name: {{ . }}, ignoredByScheduler: false}
    {{- end }}
{{- end -}}

{{- /* Path of the verbs, as the extender is told: empty, or /scheduler. */ -}}
{{- define "snugfit.urlPrefix" -}}
{{- with trimAll "/" (toString (default "" .Values.extender.settings.url_prefix)) -}}
/{{ . }}
{{- end -}}
{{- end -}}

{{- /* Kinds that state the size of a gang; the role lets the extender list just these. */ -}}
{{- define "snugfit.watchGroups" -}}
{{- if hasKey .Values.extender.settings "watch_groups" -}}
{{- .Values.extender.settings.watch_groups -}}
{{- else -}}
podgroups.scheduling.k8s.io
{{- end -}}
{{- end -}}

{{- /* Empty, or something: whether refused pods are brought to kube-scheduler's attention. */ -}}
{{- define "snugfit.requeues" -}}
{{- $settings := .Values.extender.settings -}}
{{- if not (and (hasKey $settings "requeue_after_s") (eq (float64 $settings.requeue_after_s) 0.0)) -}}
yes
{{- end -}}
{{- end -}}

{{- /* Empty, or something: whether metrics are served, and whether with a certificate of their own. */ -}}
{{- define "snugfit.metrics" -}}
{{- if or .Values.metrics.enabled .Values.serviceMonitor.enabled -}}
yes
{{- end -}}
{{- end -}}

{{- define "snugfit.metricsVolume" -}}
{{- if and (include "snugfit.metrics" .) (or .Values.metrics.secret (eq .Values.topology "sidecar")) -}}
yes
{{- end -}}
{{- end -}}

{{- define "snugfit.metricsNames" -}}
{{- $name := printf "%s-metrics.%s.svc" (include "snugfit.fullname" .) .Release.Namespace -}}
{{ $name }},{{ $name }}.cluster.local
{{- end -}}

{{- /* Settings that were renamed. A test holds the list to the extender's own. */ -}}
{{- define "snugfit.renamed" -}}
{{- $renamed := dict "hold_ttl_s" "reservation_ttl_s" "mix_file" "workload_profile_file" "mix_half_life_pods" "workload_profile_half_life_pods" "wake_after_s" "requeue_after_s" -}}
{{- range $old, $new := $renamed -}}
{{- if hasKey $.Values.extender.settings $old -}}
{{- fail (printf "extender.settings.%s was renamed: write %s" $old $new) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "snugfit.extenderSettings" -}}
{{- include "snugfit.renamed" . -}}
{{- $settings := deepCopy .Values.extender.settings -}}
{{- $_ := set $settings "status_listen" ":10263" -}}
{{- $_ := set $settings "port" 10262 -}}
{{- if eq .Values.topology "sidecar" -}}
{{- $_ := set $settings "host" "127.0.0.1" -}}
{{- else -}}
{{- $_ := set $settings "host" .Values.extender.host -}}
{{- $_ := set $settings "tls_cert" "/etc/snugfit-tls/tls.crt" -}}
{{- $_ := set $settings "tls_key" "/etc/snugfit-tls/tls.key" -}}
{{- $_ := set $settings "tls_client_ca" "/etc/snugfit-tls/ca.crt" -}}
{{- $_ := set $settings "lease_namespace" .Release.Namespace -}}
{{- $_ := set $settings "lease_name" (include "snugfit.lease" .) -}}
{{- end -}}
{{- if include "snugfit.metrics" . -}}
{{- $_ := set $settings "metrics_listen" ":10264" -}}
{{- if include "snugfit.metricsVolume" . -}}
{{- $_ := set $settings "metrics_cert" "/etc/snugfit-metrics-tls/tls.crt" -}}
{{- $_ := set $settings "metrics_key" "/etc/snugfit-metrics-tls/tls.key" -}}
{{- end -}}
{{- if not (hasKey $settings "host_names") -}}
{{- $_ := set $settings "host_names" (include "snugfit.metricsNames" .) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $settings "record_policy" "" -}}
{{- if include "snugfit.recordPolicyServed" . -}}
{{- $_ := set $settings "record_policy" (include "snugfit.recordPolicy" .) -}}
{{- end -}}
{{- $_ := set $settings "watch_groups" (include "snugfit.watchGroups" .) -}}
{{- toYaml $settings -}}
{{- end -}}
