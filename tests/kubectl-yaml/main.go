// Reads YAML as kubectl does and writes what it has read as JSON: one JSON text with YAML per line in, one JSON text
// per line out. It is the judge of what `stillpoint rule convert` and deploy/ contain.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 0, 1<<20), 1<<26)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		var text string
		if err := json.Unmarshal(in.Bytes(), &text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		value, err := yaml.YAMLToJSONStrict([]byte(text))
		if err != nil {
			value, _ = json.Marshal(map[string]string{"cannot be read": err.Error()})
		}
		fmt.Fprintln(out, string(value))
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
