package main

import (
	"io/ioutil"
	"os"
	"strconv"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// credentials say who talks to which apiserver; the fields are file names.
type credentials struct {
	server string
	ca     string
	// client is the path of a certificate and key without .crt and .key.
	client string
}

// kubeconfig names the files; with embed it holds their contents, so that it
// can be carried elsewhere.
func (c credentials) kubeconfig(embed bool) ([]byte, error) {
	cluster := &api.Cluster{Server: c.server, CertificateAuthority: c.ca}
	user := &api.AuthInfo{ClientCertificate: c.client + ".crt", ClientKey: c.client + ".key"}
	if embed {
		for _, field := range []struct {
			path *string
			data *[]byte
		}{
			{&cluster.CertificateAuthority, &cluster.CertificateAuthorityData},
			{&user.ClientCertificate, &user.ClientCertificateData},
			{&user.ClientKey, &user.ClientKeyData},
		} {
			data, err := ioutil.ReadFile(*field.path)
			if err != nil {
				return nil, err
			}
			*field.path, *field.data = "", data
		}
	}
	return clientcmd.Write(api.Config{
		Clusters:       map[string]*api.Cluster{"default": cluster},
		AuthInfos:      map[string]*api.AuthInfo{"default": user},
		Contexts:       map[string]*api.Context{"default": {Cluster: "default", AuthInfo: "default"}},
		CurrentContext: "default",
	})
}

// writeKubeconfig is for the components, which want a path.
func (c credentials) writeKubeconfig(path string) error {
	text, err := c.kubeconfig(false)
	if err != nil {
		return err
	}
	return writeFile(path, text, 0600)
}

// writeUserKubeconfig writes the file that a person takes away, as root and
// with the mode asked for.
func writeUserKubeconfig(config *Config, admin credentials) error {
	text, err := admin.kubeconfig(true)
	if err != nil {
		return err
	}
	mode, err := strconv.ParseUint(config.KubeconfigMode, 8, 9)
	if err != nil {
		return err
	}
	return writeFile(config.Kubeconfig, text, os.FileMode(mode))
}

func newClient(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
