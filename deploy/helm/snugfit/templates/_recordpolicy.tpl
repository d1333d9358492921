{{- /* Empty, or something. Rendering without a cluster knows no kinds: there the version decides, and
every version that the chart accepts serves the policy. */ -}}
{{- define "snugfit.recordPolicyServed" -}}
{{- $enabled := .Values.recordPolicy.enabled | toString -}}
{{- $known := .Capabilities.APIVersions.Has "v1/Pod" -}}
{{- $served := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") (or $served (not $known))) -}}
yes
{{- end -}}
{{- end -}}

{{- define "snugfit.recordPolicy" -}}
{{- .Values.recordPolicy.name | default (printf "%s-device-records" (include "snugfit.fullname" .)) -}}
{{- end -}}

{{- define "snugfit.recordRules" -}}
resourceRules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [UPDATE]
    resources: [pods, pods/*]
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [bindings, pods/binding]
{{- end -}}

{{- /* Whose requests are looked at: everybody's but these, and only where a record is involved. Nothing
here may fail: a user without groups, an object without annotations and one that is created all pass. */ -}}
{{- define "snugfit.recordConditions" -}}
- name: not-by-those-who-record
  expression: >-
    !(has(request.userInfo.username) && request.userInfo.username in {{ toJson .accounts }})
- name: not-in-an-emergency
  expression: >-
    !(has(request.userInfo.groups) && request.userInfo.groups.exists(group, group in {{ toJson (.root.Values.recordPolicy.breakGlassGroups | default list) }}))
- name: a-record-is-involved
  expression: >-
    [object, oldObject].exists(one, one != null && has(one.metadata.annotations) && {{ toJson .keys }}.exists(key, key in one.metadata.annotations))
{{- end -}}

{{- define "snugfit.recordVariables" -}}
- name: before
  expression: >-
    oldObject != null && has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}
- name: after
  expression: >-
    has(object.metadata.annotations) ? object.metadata.annotations : {}
- name: changed
  expression: >-
    {{ toJson .keys }}.filter(key, (key in variables.before) != (key in variables.after) || (key in variables.before && variables.before[key] != variables.after[key]))
{{- end -}}
