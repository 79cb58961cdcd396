package main

import (
	"os"

	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/kubectl/pkg/cmd"
)

// kubectl is the upstream command. Like K3s's it takes the server's own
// kubeconfig if none is named.
func kubectl(args []string) error {
	if os.Getenv("KUBECONFIG") == "" {
		const own = "/etc/rancher/k3s/k3s.yaml"
		if _, err := os.Stat(own); err == nil {
			os.Setenv("KUBECONFIG", own)
		}
	}
	os.Args = append([]string{"kubectl"}, args...)
	command := cmd.NewDefaultKubectlCommand()
	command.SilenceErrors, command.SilenceUsage = true, true
	return command.Execute()
}
