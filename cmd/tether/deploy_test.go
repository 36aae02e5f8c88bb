package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"tether/cmd/tether/internal/config"
)

const deploy = "../../deploy/"

// yamlMap is a YAML mapping, read key by key.
type yamlMap map[string]any

// at follows a path of keys and list indexes.
func (m yamlMap) at(t *testing.T, path ...any) any {
	t.Helper()
	var v any = map[string]any(m)
	for i, step := range path {
		ok := false
		switch step := step.(type) {
		case string:
			var in map[string]any
			if in, ok = v.(map[string]any); ok {
				v, ok = in[step]
			}
		case int:
			var in []any
			if in, ok = v.([]any); ok && step < len(in) {
				v = in[step]
			}
		}
		if !ok {
			t.Fatalf("nothing at %v", path[:i+1])
		}
	}
	return v
}

func readYAML(t *testing.T, path string) []yamlMap {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []yamlMap
	for dec := yaml.NewDecoder(f); ; {
		var m map[string]any
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, m)
	}
}

// stopTime is how long a server with this environment and file may take from SIGTERM to its end.
func stopTime(t *testing.T, l config.Loader) time.Duration {
	t.Helper()
	out, err := l.Load()
	if err != nil {
		t.Fatal(err)
	}
	return out.StopTime()
}

func TestComposeFiles(t *testing.T) {
	files, err := filepath.Glob(deploy + "compose.*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatalf("got %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			compose := readYAML(t, file)[0]
			for _, node := range []string{"node-a", "node-b"} {
				env, _ := compose.at(t, "services", node, "environment").(map[string]any)
				l := config.Loader{Environ: composeEnviron(t, env)}
				loaded, err := l.Load()
				if err != nil {
					t.Fatalf("%s: %v", node, err)
				}
				if loaded.Node != node {
					t.Errorf("%s is called %s", node, loaded.Node)
				}
				scheme, _, _ := strings.Cut(string(loaded.Broker), ":")
				if want := strings.Split(filepath.Base(file), ".")[1]; scheme != want {
					t.Errorf("%s: the broker is %s, not %s", node, scheme, want)
				}
				grace, err := time.ParseDuration(fmt.Sprint(compose.at(t, "services", node, "stop_grace_period")))
				if need := stopTime(t, l); err != nil || grace <= need {
					t.Errorf("%s: stop_grace_period is %v, and the server may take %v (%v)", node, grace, need, err)
				}
			}
			for _, kind := range []string{"sticky", "plain"} {
				if _, err := os.Stat(deploy + "nginx." + kind + ".conf"); err != nil {
					t.Error(err)
				}
			}
			composeConfig(t, file)
		})
	}
}

// composeEnviron is the environment that docker compose would make of it, with the variables that the
// file asks for.
func composeEnviron(t *testing.T, env map[string]any) []string {
	t.Helper()
	variable := regexp.MustCompile(`\$\{(\w+)(?::[-?]([^}]*))?\}`)
	given := map[string]string{"TETHER_AUTH_KEYS": testTokenKey, "TETHER_EMIT_KEYS": testEmitKey}
	var out []string
	for name, value := range env {
		text := variable.ReplaceAllStringFunc(fmt.Sprint(value), func(s string) string {
			m := variable.FindStringSubmatch(s)
			if v, ok := given[m[1]]; ok {
				return v
			}
			return m[2]
		})
		out = append(out, name+"="+text)
	}
	return out
}

// composeConfig has docker compose check the file, where it is installed.
func composeConfig(t *testing.T, file string) {
	t.Helper()
	if exec.Command("docker", "compose", "version").Run() != nil {
		t.Log("docker compose is not installed: the file was parsed and its settings loaded, nothing more")
		return
	}
	cmd := exec.Command("docker", "compose", "-f", file, "config", "--quiet")
	cmd.Env = append(os.Environ(), enough...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("docker compose config: %v\n%s", err, out)
	}
}

// TestKubernetesManifest checks what can be checked without a cluster: that the objects have what
// Kubernetes requires, that they fit each other, and that the server likes its configuration.
func TestKubernetesManifest(t *testing.T) {
	objects := map[string]yamlMap{}
	for _, m := range readYAML(t, deploy+"kubernetes.yaml") {
		kind := fmt.Sprint(m.at(t, "apiVersion"), " ", m.at(t, "kind"))
		if m.at(t, "metadata", "name") != "tether" || m.at(t, "metadata", "labels", "app") != "tether" {
			t.Errorf("%s: name or label is not tether", kind)
		}
		objects[kind] = m
	}
	for _, kind := range []string{
		"v1 ConfigMap", "v1 Service", "apps/v1 Deployment", "policy/v1 PodDisruptionBudget",
		"keda.sh/v1alpha1 ScaledObject", "keda.sh/v1alpha1 TriggerAuthentication",
	} {
		if objects[kind] == nil {
			t.Fatalf("no %s", kind)
		}
	}
	d := objects["apps/v1 Deployment"]
	for _, path := range [][]any{{"spec", "selector", "matchLabels", "app"}, {"spec", "template", "metadata", "labels", "app"}} {
		if got := d.at(t, path...); got != "tether" {
			t.Errorf("%v: got %v", path, got)
		}
	}
	pod := func(path ...any) any { return d.at(t, append([]any{"spec", "template", "spec"}, path...)...) }
	container := func(path ...any) any { return pod(append([]any{"containers", 0}, path...)...) }
	for _, c := range []struct{ got, want any }{
		{pod("enableServiceLinks"), false},
		{pod("securityContext", "runAsNonRoot"), true},
		{container("securityContext", "readOnlyRootFilesystem"), true},
		{container("securityContext", "allowPrivilegeEscalation"), false},
		{container("readinessProbe", "httpGet", "path"), "/readyz"},
		{container("readinessProbe", "httpGet", "port"), "http"},
		{container("livenessProbe", "httpGet", "path"), "/healthz"},
		{container("ports", 0, "name"), "http"},
		{container("ports", 0, "containerPort"), 3000},
		{container("args", 0), "serve"},
		{container("args", 1), "--config=/etc/tether/tether.yaml"},
		{container("volumeMounts", 0, "mountPath"), "/etc/tether"},
		{container("volumeMounts", 1, "mountPath"), "/run/secrets/tether"},
		{pod("volumes", 0, "configMap", "name"), "tether"},
		{pod("volumes", 1, "secret", "secretName"), "tether"},
		{objects["v1 Service"].at(t, "spec", "ports", 0, "targetPort"), "http"},
		{objects["v1 Service"].at(t, "spec", "selector", "app"), "tether"},
		{objects["policy/v1 PodDisruptionBudget"].at(t, "spec", "selector", "matchLabels", "app"), "tether"},
		{objects["keda.sh/v1alpha1 ScaledObject"].at(t, "spec", "scaleTargetRef", "name"), "tether"},
		{objects["keda.sh/v1alpha1 ScaledObject"].at(t, "spec", "triggers", 0, "metadata", "valueLocation"), "connections"},
		{objects["keda.sh/v1alpha1 ScaledObject"].at(t, "spec", "triggers", 0, "authenticationRef", "name"), "tether"},
		{objects["keda.sh/v1alpha1 TriggerAuthentication"].at(t, "spec", "secretTargetRef", 0, "key"), "stats-keys"},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
	kubernetesConfig(t, objects["v1 ConfigMap"], pod("terminationGracePeriodSeconds"))
}

// kubernetesConfig loads the ConfigMap as the server would, with the secrets in another place.
func kubernetesConfig(t *testing.T, m yamlMap, grace any) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"broker": "redis://:p@redis:6379", "auth-keys": testTokenKey, "emit-keys": testEmitKey, "stats-keys": testEmitKey} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.ReplaceAll(fmt.Sprint(m.at(t, "data", "tether.yaml")), "/run/secrets/tether", dir)
	file := filepath.Join(dir, "tether.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l := config.Loader{Args: []string{"--config=" + file}}
	if need := stopTime(t, l); time.Duration(grace.(int))*time.Second <= need {
		t.Errorf("terminationGracePeriodSeconds is %v, and the server may take %v", grace, need)
	}
}

func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile(deploy + "Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"./cmd/tether", "USER nonroot", "CGO_ENABLED=0",
		"ENV TETHER_ADDR=:3000", // nobody reaches a loopback in a container
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the Dockerfile does not say %s", want)
		}
	}
	if mod, err := os.ReadFile("../../go.mod"); err != nil || !strings.Contains(string(text), "golang:"+goVersion(string(mod))) {
		t.Errorf("the image is built with another Go than go.mod names (%v)", err)
	}
	var commands [][]string // with the program and its arguments
	for _, m := range regexp.MustCompile(`(?m)(?:ENTRYPOINT|CMD) (\[.*\])$`).FindAllStringSubmatch(string(text), -1) {
		var words []string
		if err := json.Unmarshal([]byte(m[1]), &words); err != nil {
			t.Fatalf("%s: %v", m[1], err)
		}
		commands = append(commands, words)
	}
	// The health check is about the process: a broker that is away is no reason to restart it.
	const program, alive = "/usr/local/bin/tether", "http://127.0.0.1:3000/healthz"
	if want := [][]string{{program, "probe", alive}, {program}, {"serve"}}; !reflect.DeepEqual(commands, want) {
		t.Errorf("got the commands %q, want %q", commands, want)
	}
}

func goVersion(mod string) string {
	m := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(mod)
	if m == nil {
		return "?"
	}
	return m[1]
}
