package config

import (
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// Print writes the configuration as YAML that could be a configuration file, but for the hidden
// secrets, with the source of every value beside it.
func (l *Loaded) Print(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{"": root}
	for _, f := range Settings(l.model) {
		section, key := "", f.Name
		if i := strings.LastIndexByte(f.Name, '.'); i >= 0 {
			section, key = f.Name[:i], f.Name[i+1:]
		}
		at, ok := sections[section]
		if !ok {
			at = &yaml.Node{Kind: yaml.MappingNode}
			sections[section] = at
			root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: section}, at)
		}
		value := &yaml.Node{}
		if err := value.Encode(shown(f)); err != nil {
			return err
		}
		value.Style |= yaml.FlowStyle
		value.LineComment = l.SourceOf(f.Name)
		at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return err
	}
	return enc.Close()
}

// shown is the value of a setting as it may be printed.
func shown(f *kong.Flag) any {
	switch v := f.Target.Interface().(type) {
	case Secret:
		switch {
		case v == "":
			return ""
		case f.Name == "broker":
			return ShowURL(v)
		}
		return hidden // of webhook.url, too: its path may be what makes it one
	case []Secret:
		out := make([]string, len(v))
		for i, s := range v {
			out[i] = hidden
			if strings.HasPrefix(string(s), "file:") {
				out[i] = string(s) // where it is kept is no secret
			}
		}
		return out
	case time.Duration:
		return duration(v)
	default:
		return v
	}
}

// duration is like String without the units that are zero: 2m, not 2m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
