{{- define "sideguard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* Names of objects: at most 50 letters, so that suffixes fit. */ -}}
{{- define "sideguard.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "sideguard.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "sideguard.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sideguard.control.name" -}}
{{ include "sideguard.fullname" . }}-control
{{- end }}

{{- define "sideguard.injector.name" -}}
{{ include "sideguard.fullname" . }}-injector
{{- end }}

{{- /* (list $ "component") */ -}}
{{- define "sideguard.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ include "sideguard.name" $top }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Helm adds `managed-by` by itself; without it, what is rendered serves kustomize too. */ -}}
{{- define "sideguard.labels" -}}
{{- $top := index . 0 -}}
{{ include "sideguard.selector" . }}
app.kubernetes.io/part-of: sideguard
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
{{- with $top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* (list $ .Values.images.NAME): a digest goes before the tag. */ -}}
{{- define "sideguard.image" -}}
{{- $top := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $top.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $top.Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{- define "sideguard.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the `restricted` level of pod security asks, and more. The images' own user. */ -}}
{{- define "sideguard.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sideguard.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* (list $ values "component"): where pods go; replicas keep apart by default. */ -}}
{{- define "sideguard.placement" -}}
{{- $values := index . 1 -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
nodeSelector:
  kubernetes.io/os: linux
{{- with $values.nodeSelector }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
{{ toYaml . | indent 2 }}
{{- end }}
affinity:
{{- if $values.affinity }}
{{ toYaml $values.affinity | indent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
{{ include "sideguard.selector" (list (index . 0) (index . 2)) | indent 14 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
{{ include "sideguard.selector" (list (index . 0) (index . 2)) | indent 8 }}
{{- end }}
{{- end }}

{{- define "sideguard.control.scheme" -}}
{{ ternary "https" "http" .Values.control.tls.enabled }}
{{- end }}

{{- define "sideguard.control.host" -}}
{{ include "sideguard.control.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "sideguard.control.url" -}}
{{ include "sideguard.control.scheme" . }}://{{ include "sideguard.control.host" . }}:{{ .Values.control.service.port }}
{{- end }}

{{- /* Rules of egress that reach the cluster's name servers. */ -}}
{{- define "sideguard.egress.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
      podSelector:
        matchLabels:
          k8s-app: kube-dns
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{- define "sideguard.egress.apiServer" -}}
- ports:
{{- range .Values.networkPolicy.apiServer.ports }}
    - {protocol: TCP, port: {{ . }}}
{{- end }}
{{- with .Values.networkPolicy.apiServer.cidrs }}
  to:
{{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* What both webhooks have in common. */ -}}
{{- define "sideguard.webhook" -}}
namespaceSelector:
  matchExpressions:
    - {key: sideguard.dev/inject, operator: In, values: [enabled]}
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values: [kube-system, kube-node-lease, {{ .Release.Namespace }}]
objectSelector: {}
failurePolicy: Fail
matchPolicy: Equivalent
sideEffects: None
timeoutSeconds: 5
admissionReviewVersions: [v1]
{{- end }}
