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

{{/* Of a list of all, and of an image's values with repository, tag and digest: the image. */}}
{{- define "trialfleet.image" -}}
{{- $all := index . 0 -}}{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- if $all.Values.registry -}}
{{- $parts := splitList "/" $name -}}
{{- if and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) -}}
{{- $name = rest $parts | join "/" -}}
{{- end -}}
{{- $name = printf "%s/%s" $all.Values.registry $name -}}
{{- end -}}
{{ $name }}:{{ $image.tag | default $all.Chart.AppVersion }}{{ with $image.digest }}@{{ . }}{{ end }}
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
