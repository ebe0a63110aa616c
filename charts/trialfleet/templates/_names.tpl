{{/* The release's name; with the chart's, if that is not in it. */}}
{{- define "trialfleet.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "trialfleet.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "trialfleet.fullname" .) }}
{{- else }}{{ required "serviceAccount.name: needed with serviceAccount.create=false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The Secret of the key from which all passwords are derived; the operator makes it. */}}
{{- define "trialfleet.keySecret" -}}
{{ include "trialfleet.fullname" . }}-key
{{- end }}

{{/* Of a dict with repository, tag and digest, and the chart's version: the image. */}}
{{- define "trialfleet.image" -}}
{{- $tag := .image.tag | default .version -}}
{{ .image.repository }}:{{ $tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* What tells the operator's pods. The first label is the one that the policies of proxies let in. */}}
{{- define "trialfleet.selector" -}}
app.kubernetes.io/name: trialfleet-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "trialfleet.labels" -}}
{{ include "trialfleet.selector" . }}
app.kubernetes.io/part-of: trialfleet
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}
