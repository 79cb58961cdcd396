package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/ioutil"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// joinPath lies where K3s has its own join endpoints. One exchange takes the
// place of K3s's several.
const joinPath = "/v1-k3s/join"

// joinRequest comes with basic authentication by the token's password.
type joinRequest struct {
	NodeName     string            `json:"nodeName"`
	NodeIP       string            `json:"nodeIP"`
	NodePassword string            `json:"nodePassword"`
	Requests     map[string][]byte `json:"requests"` // certificate requests (PEM) by file name
}

// joinReply is all a node needs to know of its cluster.
type joinReply struct {
	ClientCA     []byte            `json:"clientCA"`
	Certificates map[string][]byte `json:"certificates"`
	PodCIDR      string            `json:"podCIDR"`
	ClusterCIDR  string            `json:"clusterCIDR"`
	ClusterDNS   string            `json:"clusterDNS"`
}

// The three certificates of a node. Keys never leave it.
const (
	clientKubelet   = "client-kubelet"
	servingKubelet  = "serving-kubelet"
	clientKubeProxy = "client-kube-proxy"
)

func nodeIdentities(name, ip string) map[string]identity {
	return map[string]identity{
		clientKubelet:   {name: "system:node:" + name, group: "system:nodes"},
		servingKubelet:  {name: name, hosts: []string{name, ip, "localhost", "127.0.0.1"}},
		clientKubeProxy: {name: "system:kube-proxy"},
	}
}

// frontDoor stands before the apiserver's own chain and answers the paths that
// K3s adds to its port. Everything else goes on unchanged.
type frontDoor struct {
	certs  *serverCerts
	tokens serverTokens
	nodes  *registry
	config *Config
	next   http.Handler
}

func (d *frontDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ping":
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "pong")
	case "/cacerts":
		w.Header().Set("Content-Type", "text/plain")
		w.Write(d.certs.serverCA.pem)
	case joinPath:
		d.join(w, r)
	default:
		d.next.ServeHTTP(w, r)
	}
}

func (d *frontDoor) join(w http.ResponseWriter, r *http.Request) {
	_, password, _ := r.BasicAuth()
	if !d.tokens.accepts(password) {
		http.Error(w, "wrong token", http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodPost {
		http.Error(w, "want POST", http.StatusMethodNotAllowed)
		return
	}
	var request joinRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&request); err != nil {
		http.Error(w, "not a join request", http.StatusBadRequest)
		return
	}
	reply, status, err := d.admit(request)
	if err != nil {
		logf("join of node %q refused: %v", request.NodeName, err)
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(reply)
}

func (d *frontDoor) admit(request joinRequest) (*joinReply, int, error) {
	if problems := validation.IsDNS1123Subdomain(request.NodeName); len(problems) > 0 {
		return nil, http.StatusBadRequest, fmt.Errorf("node name: %s", problems[0])
	}
	if net.ParseIP(request.NodeIP) == nil || request.NodePassword == "" {
		return nil, http.StatusBadRequest, fmt.Errorf("a node needs an address and a password")
	}
	cidr, err := d.nodes.admit(request.NodeName, request.NodePassword)
	if err != nil {
		return nil, http.StatusForbidden, err
	}
	reply := &joinReply{
		ClientCA:     d.certs.clientCA.pem,
		Certificates: map[string][]byte{},
		PodCIDR:      cidr,
		ClusterCIDR:  d.config.ClusterCIDR,
		ClusterDNS:   d.config.ClusterDNS,
	}
	for file, who := range nodeIdentities(request.NodeName, request.NodeIP) {
		ca := d.certs.clientCA
		if len(who.hosts) > 0 {
			ca = d.certs.serverCA
		}
		block, _ := pem.Decode(request.Requests[file])
		if block == nil {
			return nil, http.StatusBadRequest, fmt.Errorf("no certificate request for %s", file)
		}
		// Only the key is taken from the request: what a node may be called, the server says.
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err == nil {
			err = csr.CheckSignature()
		}
		if err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("certificate request for %s: %v", file, err)
		}
		if reply.Certificates[file], err = ca.sign(csr.PublicKey, who); err != nil {
			return nil, http.StatusInternalServerError, err
		}
	}
	return reply, http.StatusOK, nil
}

// errRefused is a join that trying again will not mend.
type errRefused struct{ reason string }

func (e errRefused) Error() string { return "the server refuses this node: " + e.reason }

// joinServer makes the node's keys, asks the server for certificates, and
// leaves all of it in dir. It waits as long as the server cannot be reached.
func joinServer(ctx context.Context, config *Config, url string, secret token, dir string) (*joinReply, error) {
	password, err := nodePassword()
	if err != nil {
		return nil, err
	}
	request := joinRequest{
		NodeName: config.NodeName, NodeIP: config.NodeIP, NodePassword: password,
		Requests: map[string][]byte{},
	}
	for file := range nodeIdentities(config.NodeName, config.NodeIP) {
		key, err := loadKey(filepath.Join(dir, file+".key"))
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			return nil, err
		}
		request.Requests[file] = encodePEM("CERTIFICATE REQUEST", der)
	}

	said := ""
	for {
		reply, err := tryJoin(ctx, url, secret, request, dir)
		if err == nil {
			return reply, nil
		}
		if _, refused := err.(errRefused); refused || ctx.Err() != nil {
			return nil, err
		}
		if said != err.Error() {
			said = err.Error()
			logf("waiting for %s: %v", url, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func tryJoin(ctx context.Context, url string, secret token, request joinRequest, dir string) (*joinReply, error) {
	// The CA is fetched without a check; the token's hash is the check.
	blind := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	ca, err := exchange(ctx, blind, http.MethodGet, url+"/cacerts", nil, "")
	if err != nil {
		return nil, err
	}
	if err := secret.checkCA(ca); err != nil {
		return nil, errRefused{err.Error()}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errRefused{"/cacerts holds no certificate"}
	}
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	answer, err := exchange(ctx, client, http.MethodPost, url+joinPath, body, secret.password)
	if err != nil {
		return nil, err
	}
	reply := &joinReply{}
	if err := json.Unmarshal(answer, reply); err != nil {
		return nil, errRefused{"its answer is not a join reply"}
	}
	files := map[string][]byte{"server-ca.crt": ca, "client-ca.crt": reply.ClientCA}
	for file, cert := range reply.Certificates {
		files[file+".crt"] = cert
	}
	for file, data := range files {
		if err := writeFile(filepath.Join(dir, filepath.Base(file)), data, 0644); err != nil {
			return nil, err
		}
	}
	return reply, nil
}

func exchange(ctx context.Context, client *http.Client, method, url string, body []byte, password string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, errRefused{err.Error()}
	}
	if password != "" {
		request.SetBasicAuth("node", password)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := ioutil.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	switch status := response.StatusCode; {
	case status == http.StatusOK:
		return answer, nil
	case status >= 400 && status < 500:
		return nil, errRefused{strings.TrimSpace(string(answer))}
	default:
		return nil, fmt.Errorf("%s", response.Status)
	}
}
