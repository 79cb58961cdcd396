package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/ioutil"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced, at a start only.
	renewBefore = 120 * 24 * time.Hour
)

// authority is a certificate authority with its key.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// identity is what a leaf certificate says about its holder. With hosts it is
// for serving, without it is for a client.
type identity struct {
	name  string
	group string
	hosts []string
	// peer makes a serving certificate good for a client as well.
	peer bool
}

// serverCerts are the authorities of a cluster; everything below
// <data-dir>/server/tls is made from them. Names are K3s's.
type serverCerts struct {
	dir       string
	serverCA  *authority
	clientCA  *authority
	requestCA *authority
	etcdCA    *authority
}

func (c *serverCerts) path(name string) string { return filepath.Join(c.dir, name) }

// loadServerCerts makes what is missing, and renews leaves that are about to
// expire or that say something else than they should.
func loadServerCerts(config *Config) (*serverCerts, error) {
	certs := &serverCerts{dir: filepath.Join(config.DataDir, "server/tls")}
	for name, ca := range map[string]**authority{
		"server-ca":         &certs.serverCA,
		"client-ca":         &certs.clientCA,
		"request-header-ca": &certs.requestCA,
		"etcd/peer-ca":      &certs.etcdCA,
	} {
		loaded, err := loadAuthority(certs.path(name), "k3s-"+filepath.Base(name))
		if err != nil {
			return nil, err
		}
		*ca = loaded
	}
	if _, err := loadKey(certs.path("service.key")); err != nil {
		return nil, err
	}

	_, services, _ := net.ParseCIDR(config.ServiceCIDR)
	apiserverHosts := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", config.localAddress(), config.NodeName, config.NodeIP, config.AdvertiseAddress,
		addressAt(services, 1).String(),
	}, config.TLSSANs...)
	for _, leaf := range []struct {
		file string
		ca   *authority
		identity
	}{
		{"serving-kube-apiserver", certs.serverCA, identity{name: "kube-apiserver", hosts: apiserverHosts}},
		{"client-admin", certs.clientCA, identity{name: "system:admin", group: "system:masters"}},
		{"client-scheduler", certs.clientCA, identity{name: "system:kube-scheduler"}},
		{"client-kube-apiserver", certs.clientCA, identity{name: "system:apiserver", group: "system:masters"}},
		{"client-auth-proxy", certs.requestCA, identity{name: "system:auth-proxy"}},
		{"etcd/peer-server-client", certs.etcdCA, identity{name: "etcd-peer", hosts: []string{"localhost", "127.0.0.1"}, peer: true}},
	} {
		if err := ensureLeaf(certs.path(leaf.file), leaf.ca, leaf.identity); err != nil {
			return nil, err
		}
	}
	return certs, nil
}

func loadAuthority(path, commonName string) (*authority, error) {
	key, err := loadKey(path + ".key")
	if err != nil {
		return nil, err
	}
	text, err := ioutil.ReadFile(path + ".crt")
	if os.IsNotExist(err) {
		template, err := newTemplate(pkix.Name{CommonName: fmt.Sprintf("%s@%d", commonName, time.Now().Unix())}, caLifetime)
		if err != nil {
			return nil, err
		}
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, err
		}
		text = encodePEM("CERTIFICATE", der)
		if err := writeFile(path+".crt", text, 0644); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	cert, err := parseCert(text)
	if err != nil {
		return nil, fmt.Errorf("%s.crt: %v", path, err)
	}
	return &authority{cert: cert, key: key, pem: text}, nil
}

// ensureLeaf keeps the certificate at path if it still serves, else replaces it.
func ensureLeaf(path string, ca *authority, who identity) error {
	key, err := loadKey(path + ".key")
	if err != nil {
		return err
	}
	if text, err := ioutil.ReadFile(path + ".crt"); err == nil {
		if cert, err := parseCert(text); err == nil && stillServes(cert, key, ca, who) {
			return nil
		}
	}
	text, err := ca.sign(key.Public(), who)
	if err != nil {
		return err
	}
	return writeFile(path+".crt", text, 0644)
}

func stillServes(cert *x509.Certificate, key crypto.Signer, ca *authority, who identity) bool {
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(public, cert.RawSubjectPublicKeyInfo) {
		return false
	}
	hosts := append([]string{}, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return cert.CheckSignatureFrom(ca.cert) == nil &&
		time.Until(cert.NotAfter) > renewBefore &&
		cert.Subject.CommonName == who.name &&
		strings.Join(cert.Subject.Organization, ",") == who.group &&
		strings.Join(unique(hosts), ",") == strings.Join(unique(who.hosts), ",")
}

// sign issues a leaf certificate, followed by nothing: every authority is a root.
func (a *authority) sign(public crypto.PublicKey, who identity) ([]byte, error) {
	subject := pkix.Name{CommonName: who.name}
	if who.group != "" {
		subject.Organization = []string{who.group}
	}
	template, err := newTemplate(subject, leafLifetime)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	if len(who.hosts) == 0 || who.peer {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if len(who.hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range unique(who.hosts) {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	return encodePEM("CERTIFICATE", der), nil
}

func newTemplate(subject pkix.Name, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(lifetime),
	}, nil
}

// loadKey reads a private key, or makes one.
func loadKey(path string) (crypto.Signer, error) {
	text, err := ioutil.ReadFile(path)
	if os.IsNotExist(err) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, writeFile(path, encodePEM("EC PRIVATE KEY", der), 0600)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %v", path, err)
	}
	return key, nil
}

func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// addressAt is the n-th address of a network.
func addressAt(network *net.IPNet, n int64) net.IP {
	sum := new(big.Int).Add(new(big.Int).SetBytes(network.IP.To4()), big.NewInt(n))
	return net.IP(sum.FillBytes(make([]byte, net.IPv4len)))
}

func unique(words []string) []string {
	sorted := append([]string{}, words...)
	sort.Strings(sorted)
	kept := sorted[:0]
	for i, word := range sorted {
		if word != "" && (i == 0 || word != sorted[i-1]) {
			kept = append(kept, word)
		}
	}
	return kept
}
