//! The keys of the orchestrator's own config that a machine config may not set,
//! because the OS does or because they would break what it promises.

/// Keys of the orchestrator's own config that are not passed through, each with the reason.
pub const OWNED_SETTINGS: &[(&str, &str)] = &[
    (
        "alsologtostderr",
        "the OS keeps the log; read it with `osctl logs orchestrator`",
    ),
    ("cluster-reset", "it is done once, not kept in a config"),
    (
        "cluster-reset-restore-path",
        "it is done once, not kept in a config",
    ),
    ("config", "the OS writes the orchestrator's config"),
    (
        "container-runtime-endpoint",
        "the image has one container runtime, the orchestrator's own",
    ),
    (
        "data-dir",
        "its data is kept in /var/lib/rancher/k3s, which is on the DATA partition",
    ),
    ("datastore-cafile", "set orchestrator.datastore.ca"),
    ("datastore-certfile", "set orchestrator.datastore.cert"),
    ("datastore-endpoint", "set orchestrator.datastore.endpoint"),
    ("datastore-keyfile", "set orchestrator.datastore.key"),
    (
        "docker",
        "the image has one container runtime, the orchestrator's own",
    ),
    (
        "log",
        "with it, the orchestrator says that it is ready before it is; read `osctl logs orchestrator`",
    ),
    (
        "node-name",
        "the node has the machine's host name; set machine.hostname",
    ),
    (
        "prefer-bundled-bin",
        "the image brings its own tools, the bundled ones need a shell",
    ),
    ("private-registry", "set machine.registries"),
    ("rootless", "the orchestrator runs as root"),
    ("server", "set orchestrator.server"),
    ("token", "set orchestrator.token"),
    ("token-file", "set orchestrator.token"),
    (
        "with-node-id",
        "the node has the machine's host name; set machine.hostname",
    ),
    ("write-kubeconfig", "get it with `osctl kubeconfig`"),
    ("write-kubeconfig-group", "get it with `osctl kubeconfig`"),
    ("write-kubeconfig-mode", "get it with `osctl kubeconfig`"),
];

/// Why a key may not be set; `None` if it may. `key+`, which appends, is the same key.
pub(crate) fn owned(key: &str) -> Option<&'static str> {
    let key = key.strip_suffix('+').unwrap_or(key);
    OWNED_SETTINGS
        .iter()
        .find(|(owned, _)| *owned == key)
        .map(|(_, reason)| *reason)
}

/// Why an argument of the kubelet may not be set; `None` if it may. With or without its
/// dashes and its value.
pub(crate) fn owned_kubelet_arg(text: &str) -> Option<&'static str> {
    let name = text.trim_start_matches('-').split('=').next();
    match name? {
        "volume-plugin-dir" => Some("its usual place cannot be written to"),
        "fail-swap-on" => Some("the machine has the swap that storage.swap says, and no other"),
        _ => None,
    }
}

/// Whether a key has the form of one: lower case words with dashes; `+` at the end appends.
pub(crate) fn is_key(key: &str) -> bool {
    let key = key.strip_suffix('+').unwrap_or(key);
    !key.is_empty()
        && key.len() <= 64
        && key.starts_with(|c: char| c.is_ascii_lowercase())
        && !key.ends_with('-')
        && key
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
