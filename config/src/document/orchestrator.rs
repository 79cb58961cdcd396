//! The section `orchestrator`: what runs on the machine, and what its cluster has.

use super::List;
use crate::{
    Secret,
    read::{Any, Entries, TextOrNumber, choice, object},
};

object! {
    /// What runs on the machine.
    OrchestratorSection {
        /// Its name; must be the one in the image. Default: k3s.
        name: String = "name";
        /// What joins machines to the cluster.
        token: Secret = "token", required;
        /// The server to join: an agent must, a server may.
        server: String = "server", example("https://10.0.0.1:6443");
        /// The labels of the node, given once, when it joins.
        labels: Entries<TextOrNumber> = "labels", example("{disk: ssd}");
        /// The taints of the node, given once, when it joins: `key=value:Effect` or `key:Effect`.
        taints: List<String> = "taints", example("[\"dedicated=database:NoSchedule\"]");
        /// The networks of the pods, one of each family; the same on all servers. Default: 10.42.0.0/16.
        cluster_cidrs: List<String> = "clusterCIDRs", example("[10.42.0.0/16]");
        /// The networks of the services, one of each family; the same on all servers. Default: 10.43.0.0/16.
        service_cidrs: List<String> = "serviceCIDRs", example("[10.43.0.0/16]");
        /// What connects the pods: what the orchestrator brings, or `none` where you bring your own. Default: flannel.
        cni: CniWord = "cni";
        /// The orchestrator's own parts that are not deployed.
        disable: List<String> = "disable", example("[traefik, servicelb]");
        /// More names and addresses for the certificate of the Kubernetes API.
        sans: List<String> = "sans", example("[k8s.example.com]");
        /// Arguments of the kubelet, without their dashes.
        kubelet_args: Entries<TextOrNumber> = "kubeletArgs", example("{max-pods: 200}");
        /// The database that servers keep the cluster in, where it is not their own. Default: their own etcd.
        datastore: DatastoreSection = "datastore";
        /// How the cluster's memory is copied.
        snapshots: SnapshotsSection = "snapshots";
        /// Archives of container images, which are on the machine before its pods need them.
        images: List<ImagesSection> = "images";
        /// What is deployed into the cluster. What is removed here stays in the cluster until somebody deletes it there.
        manifests: List<ManifestSection> = "manifests";
        /// Any other key of the orchestrator's own config.
        settings: Entries<Any> = "settings", example("{debug: true, disable-helm-controller: true}");
    }
}

object! {
    /// An archive of container images, as `docker save` and `ctr images export` write it. It is fetched before the orchestrator starts, and imported by it.
    ImagesSection by "url" {
        /// Where it is fetched from, by machine.proxy and with machine.trustedCAs: an http:// or https:// URL that ends with `.tar`, or with that and `.zst`, `.gz`, `.lz4` or `.bz2`.
        url: String = "url", required, example("https://files.example.com/k3s-airgap-images-amd64.tar.zst");
        /// The SHA-256 of the file, 64 hexadecimal digits. What is on the machine already is not fetched again.
        sha256: String = "sha256", required, example("0d3c…");
    }
}

object! {
    /// A database outside of the cluster.
    DatastoreSection {
        /// Its URL. It may hold a password, so it is not shown.
        endpoint: Secret = "endpoint", required, example("postgres://k3s:password@db.example.com:5432/k3s");
        /// The CAs that its certificate may chain to, PEM. Default: those of the image.
        ca: String = "ca";
        /// The certificate that is shown to it, PEM. Default: none.
        cert: String = "cert";
        /// The key of that certificate, PKCS#8 PEM.
        key: Secret = "key";
    }
}

object! {
    /// Copies of etcd.
    SnapshotsSection {
        /// When, as cron says it; `never` takes none. Default: `0 */12 * * *`.
        schedule: String = "schedule", example("0 */6 * * *");
        /// How many are kept. Default: 5.
        keep: u32 = "keep", example("10");
        /// Copies them to a bucket as well. Default: they stay on the machine.
        s3: S3Section = "s3";
    }
}

object! {
    /// A bucket that speaks S3.
    S3Section {
        /// Its name.
        bucket: String = "bucket", required, example("snapshots");
        /// Who keeps it: a host, with a port if need be. Default: s3.amazonaws.com.
        endpoint: String = "endpoint", example("s3.example.com");
        /// Where it is. Default: us-east-1.
        region: String = "region", example("eu-central-1");
        /// The folder in it. Default: none.
        folder: String = "folder", example("shop-7");
        /// Who asks. Default: the role of the machine, where its cloud gives it one.
        access_key: Secret = "accessKey";
        /// The secret that goes with it.
        secret_key: Secret = "secretKey";
    }
}

object! {
    /// Something to deploy.
    ManifestSection by "name" {
        /// What it is called here.
        name: String = "name", required, example("storage-class");
        /// Kubernetes objects as YAML; they are not shown, since they may be secrets.
        content: Secret = "content", required;
    }
}

choice! {
    /// What connects the pods of a cluster.
    CniWord {
        "flannel" => Flannel,
        "none" => None,
    }
}
