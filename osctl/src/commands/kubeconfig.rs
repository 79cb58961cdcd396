//! `osctl kubeconfig`.

use crate::{
    app::App,
    error::{Error, Result},
    file::{self, Existing},
    kubeconfig::{Access, Merged, make_current},
    output, yaml,
};
use clap::Args;
use keelson_api::v1::KubeconfigRequest;
use serde_json::Value;
use std::{
    env,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Fetch the cluster's kubeconfig and merge it into your own
///
/// It is merged into the first file of $KUBECONFIG, or into ~/.kube/config: cluster,
/// user and context are named after the osctl context, and all else stays as it is.
/// It becomes kubectl's current context if there is none, or with --use.
#[derive(Debug, Args)]
pub(crate) struct Kubeconfig {
    /// The cluster's URL as you reach it [default: the node's own address]
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// The name of cluster, user and context [default: that of the osctl context]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Merge it into your own: the default
    #[arg(long, conflicts_with_all = ["output", "stdout"])]
    merge: bool,

    /// Write it to a file of its own
    #[arg(short, long, value_name = "FILE", conflicts_with = "stdout")]
    output: Option<PathBuf>,

    /// Write it to stdout
    #[arg(long)]
    stdout: bool,

    /// Make it kubectl's current context
    #[arg(long = "use")]
    make_current: bool,

    /// Replace what has its name but is another's
    #[arg(long)]
    force: bool,
}

impl Kubeconfig {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let name = self.name.clone().map_or_else(|| app.context_name(), Ok)?;
        let access = self.fetch(app).await?;
        let to_file = self.output.is_some() || self.stdout;
        let path = match &self.output {
            Some(path) => path.clone(),
            None if self.stdout => PathBuf::from("-"),
            None => own_path()?,
        };
        let mut config = if to_file { Value::Null } else { read(&path)? };
        let merged = access
            .merge(&mut config, &name, self.force)
            .map_err(|error| error.cause(path.display()))?;
        let current = make_current(&mut config, &name, self.make_current);
        let text = Zeroizing::new(yaml::to_text(&config)?);
        if path == Path::new("-") {
            return output::bytes(text.as_bytes());
        }
        let existing = if to_file && !self.force {
            Existing::Refuse
        } else {
            Existing::Replace
        };
        file::make_parent(&path)?;
        file::write_secret(&path, text.as_bytes(), existing)?;
        output::note(format!(
            "{} context {name:?} ({}) in {}",
            if merged == Merged::Added {
                "added"
            } else {
                "replaced"
            },
            access.server(),
            path.display()
        ));
        output::note(match (to_file, current) {
            (true, _) => format!("next: kubectl --kubeconfig {} get nodes", path.display()),
            (false, true) => "next: kubectl get nodes".to_owned(),
            (false, false) => format!("next: kubectl --context {name} get nodes"),
        });
        Ok(())
    }

    async fn fetch(&self, app: &App) -> Result<Access> {
        let session = app.session().await?;
        let mut machine = session.machine();
        let request = KubeconfigRequest {
            server: self.server.clone().unwrap_or_default(),
        };
        let what = "fetch the kubeconfig";
        let got = session.call(what, machine.kubeconfig(request)).await?;
        let bytes = Zeroizing::new(got.kubeconfig);
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Error::failed("the node's kubeconfig is no text"))?;
        Access::of(&yaml::parse(Path::new("the node's kubeconfig"), text)?)
    }
}

/// The person's kubeconfig.
fn own_path() -> Result<PathBuf> {
    let named = env::var_os("KUBECONFIG")
        .and_then(|list| env::split_paths(&list).find(|path| !path.as_os_str().is_empty()));
    named.map_or_else(|| Ok(file::home()?.join(".kube").join("config")), Ok)
}

fn read(path: &Path) -> Result<Value> {
    if let Ok(false) = path.try_exists() {
        return Ok(Value::Null);
    }
    let text = Zeroizing::new(file::read_text(path, 16 << 20)?);
    if text.trim().is_empty() {
        Ok(Value::Null)
    } else {
        yaml::parse(path, &text)
    }
}
