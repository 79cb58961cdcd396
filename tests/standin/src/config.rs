//! The config file: the keys of the contract, read or passed over, and the one
//! that tells how to misbehave. An unknown key is refused.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{fs, path::PathBuf};

/// How to behave.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Behaviour {
    /// As an orchestrator should.
    #[default]
    Good,
    /// Ends with an error at once.
    Crash,
    /// Gets ready and ends with an error after five seconds.
    CrashLater,
    /// Never gets ready and writes nothing.
    Hang,
    /// Never gets ready.
    NeverReady,
    /// Writes to its log as fast as it can.
    Spew,
    /// Does not end when it is told to.
    IgnoreTerm,
    /// Kills machined and apid, ten times each, whenever they run.
    Assassin,
    /// Stops machined once, so that it hangs: alive, and without a word.
    StopMachined,
    /// Freezes PID 1 once, so that the machine hangs.
    FreezeInit,
    /// Has the kernel panic once.
    Panic,
    /// Tries to change what must not change and to make many orphans, and says what came of it.
    Probe,
    /// Leaves next to nothing free on its volume.
    FillDisk,
    /// When it is told to end, kills machined first.
    KillMachinedAtTheEnd,
    /// Writes to its volume as fast as it can, flushes, and says how long that took.
    Write,
    /// Does nothing, and says once how much memory the idle machine uses.
    Idle,
}

/// What is read of the config.
pub(crate) struct Config {
    /// Where its state goes.
    pub data_dir: PathBuf,
    /// How to behave.
    pub behaviour: Behaviour,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    token: Option<String>,
    token_file: Option<PathBuf>,
    agent_token_file: Option<PathBuf>,
    server: Option<String>,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    standin: Behaviour,
    #[serde(rename = "node-name")]
    _node_name: Option<String>,
    #[serde(rename = "node-ip")]
    _node_ip: Option<String>,
    #[serde(rename = "cluster-init")]
    _cluster_init: Option<bool>,
    #[serde(rename = "tls-san")]
    _tls_san: Option<Vec<String>>,
    #[serde(rename = "write-kubeconfig-mode")]
    _write_kubeconfig_mode: Option<String>,
    #[serde(rename = "secrets-encryption")]
    _secrets_encryption: Option<bool>,
    #[serde(rename = "protect-kernel-defaults")]
    _protect_kernel_defaults: Option<bool>,
    #[serde(rename = "kubelet-arg")]
    _kubelet_arg: Option<Vec<String>>,
}

/// Reads the config from its place.
pub(crate) fn read() -> Result<Config> {
    let path = std::env::var("K3S_CONFIG_FILE")
        .unwrap_or_else(|_| "/etc/rancher/k3s/config.yaml".to_owned());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let file: File = serde_saphyr::from_str(&text).with_context(|| format!("in {path}"))?;
    let token = match (&file.token, &file.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => {
            Some(fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?)
        }
        (None, None) => None,
    };
    ensure!(
        file.server.is_none() || token.is_some_and(|t| !t.trim().is_empty()),
        "joining a server needs a token"
    );
    if let Some(path) = file.agent_token_file {
        ensure!(path.exists(), "{} is not there", path.display());
    }
    Ok(Config {
        data_dir: file
            .data_dir
            .unwrap_or_else(|| "/var/lib/rancher/k3s".into()),
        behaviour: file.standin,
    })
}
