{{/* The base of every name: the release's, with "bodhi" in it. 40 characters leave room for suffixes. */}}
{{- define "bodhi.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "bodhi" $name) }}{{ $name = printf "%s-bodhi" $name }}{{ end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What tells pods apart; it never changes, as selectors cannot. Takes (list . component). */}}
{{- define "bodhi.selector" -}}
app.kubernetes.io/name: bodhi
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object. Takes (list . component). */}}
{{- define "bodhi.labels" -}}
{{- $root := index . 0 -}}
{{ include "bodhi.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: bodhi
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, namespace and labels. Takes (list . component name). */}}
{{- define "bodhi.metadata" -}}
name: {{ index . 2 }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "bodhi.labels" . | nindent 2 }}
{{- end -}}

{{/* Takes (list . name). */}}
{{- define "bodhi.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ index . 1 }}:{{ $image.tag | default (index . 0).Chart.AppVersion -}}
{{- end -}}

{{/* An address to listen on. Takes (list . port). */}}
{{- define "bodhi.listen" -}}
{{- $host := (index . 0).Values.listen -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ index . 1 }}
{{- end -}}

{{/* The namespaces that are served, the release's first, each once; space-separated. */}}
{{- define "bodhi.namespaces" -}}
{{- prepend .Values.watch.namespaces .Release.Namespace | uniq | join " " -}}
{{- end -}}

{{- define "bodhi.secret.authority" -}}
{{- .Values.secrets.authority.existingSecret | default (printf "%s-ca" (include "bodhi.name" .)) -}}
{{- end -}}
{{- define "bodhi.secret.master" -}}
{{- .Values.secrets.master.existingSecret | default (printf "%s-master" (include "bodhi.name" .)) -}}
{{- end -}}

{{/* The Secrets with the certificates of the two other modes. */}}
{{- define "bodhi.tls.controller" -}}
{{- if eq .Values.tls.mode "CertManager" }}{{ include "bodhi.name" . }}-controller-tls
{{- else }}{{ .Values.tls.existingSecret.controller }}{{ end -}}
{{- end -}}
{{- define "bodhi.tls.dataPlane" -}}
{{- if eq .Values.tls.mode "CertManager" }}{{ include "bodhi.name" . }}-dataplane-tls
{{- else }}{{ .Values.tls.existingSecret.dataPlane }}{{ end -}}
{{- end -}}

{{/* Seconds that Kubernetes has to leave a data plane: it accepts connections during the lame duck,
     lets streams run on during the drain, and needs a moment to tell those that are left. */}}
{{- define "bodhi.grace" -}}
{{- $plane := .Values.dataPlane -}}
{{- $needed := add $plane.lameDuckSeconds $plane.drainSeconds 15 -}}
{{- $given := $plane.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}{{ $needed }}
{{- else -}}
{{- if lt (int $given) (int $needed) -}}
{{- fail (printf "dataPlane.terminationGracePeriodSeconds is %d, but lameDuckSeconds (%d), drainSeconds (%d) and 15 to end take %d: streams would be cut. Raise it, lower the others, or leave it out" (int $given) (int $plane.lameDuckSeconds) (int $plane.drainSeconds) (int $needed)) -}}
{{- end -}}
{{ int $given }}
{{- end -}}
{{- end -}}

{{/* The restricted Pod Security Standard, for pods and for containers. 65532 is the images' user. */}}
{{- define "bodhi.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "bodhi.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod may and shall run. Takes the values of a component. */}}
{{- define "bodhi.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
