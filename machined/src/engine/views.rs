//! What the engine tells from what is published, without asking the owner.

use super::handle::{Error, Shared};
use crate::orchestrator::{self, payload::Payload};
use keelson_config::{Machine, Role};
use std::{io, path::PathBuf};

/// The files that the services' output is appended to.
pub(super) fn log_files() -> Vec<PathBuf> {
    [
        "/run/log/machined.log",
        "/run/log/apid.log",
        orchestrator::LOG_FILE,
    ]
    .map(PathBuf::from)
    .into()
}

/// The services' logs by name. `payload` is the orchestrator that the image carries.
pub(super) fn logs(payload: Option<&Payload>) -> Vec<(String, PathBuf)> {
    let own = ["machined", "apid"].map(|name| {
        let path = PathBuf::from(format!("/run/log/{name}.log"));
        (name.to_owned(), path)
    });
    let orchestrator = payload.map(|payload| (payload.name.clone(), orchestrator::LOG_FILE.into()));
    own.into_iter().chain(orchestrator).collect()
}

/// The file that a service's output is appended to.
pub(super) fn log_file(shared: &Shared, service: &str) -> Result<PathBuf, Error> {
    if matches!(service, "machined" | "apid") {
        return Ok(PathBuf::from(format!("/run/log/{service}.log")));
    }
    match &shared.payload {
        Some(payload) if payload.name == service => Ok(orchestrator::LOG_FILE.into()),
        _ => Err(Error::NotFound(format!("no service is named {service}"))),
    }
}

/// The cluster administrator's kubeconfig with its server rewritten.
pub(super) async fn kubeconfig(shared: &Shared, server: Option<&str>) -> Result<Vec<u8>, Error> {
    let config = shared.config.borrow().clone();
    let is_server = config.is_some_and(|stored| stored.machine.role == Role::Server);
    let Some(payload) = shared.payload.as_ref().filter(|_| is_server) else {
        return Err(Error::FailedPrecondition(
            "this machine is no server: ask one for its kubeconfig".into(),
        ));
    };
    let server = match server {
        Some(server) => {
            valid_url(server)
                .map_err(|why| Error::InvalidArgument(format!("the server {server:?} {why}")))?;
            server.to_owned()
        }
        None => {
            let addresses = orchestrator::needs::addresses(&shared.resources);
            let first = addresses.first().ok_or_else(|| {
                Error::FailedPrecondition(
                    "this machine has no address: say which server to write".into(),
                )
            })?;
            let host = if first.contains(':') {
                format!("[{first}]")
            } else {
                first.clone()
            };
            format!("https://{host}:6443")
        }
    };
    match tokio::fs::read_to_string(&payload.kubeconfig).await {
        Ok(text) => rewrite(&text, &server).ok_or_else(|| {
            Error::Internal(format!("{} names no server", payload.kubeconfig.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Unavailable(format!(
            "{} has not written its kubeconfig yet",
            payload.name
        ))),
        Err(error) => Err(Error::Internal(format!(
            "reading {}: {error}",
            payload.kubeconfig.display()
        ))),
    }
}

/// The kubeconfig with every `server:` replaced; `None` if there is none.
fn rewrite(kubeconfig: &str, server: &str) -> Option<Vec<u8>> {
    let mut rewritten = String::with_capacity(kubeconfig.len() + server.len());
    let mut found = false;
    for line in kubeconfig.split_inclusive('\n') {
        let start = line.len() - line.trim_start_matches([' ', '-']).len();
        let (indent, rest) = line.split_at(start);
        if rest.starts_with("server:") {
            found = true;
            rewritten.push_str(&format!("{indent}server: {server}\n"));
        } else {
            rewritten.push_str(line);
        }
    }
    found.then(|| rewritten.into_bytes())
}

/// Whether a text is a URL that can stand in a kubeconfig as it is.
fn valid_url(url: &str) -> Result<(), &'static str> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Err("does not begin with https://");
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:/[]%".contains(&byte);
    if rest.is_empty()
        || rest.starts_with(['/', ':'])
        || !rest.bytes().all(plain)
        || url.len() > 300
    {
        return Err("is not a URL of a server");
    }
    Ok(())
}

/// The machine's name: the config's, which it has or is about to have, else the
/// kernel's; nothing before somebody has told the kernel one.
pub(super) fn hostname(machine: &Machine) -> Option<String> {
    if let Some(name) = &machine.hostname {
        return Some(name.as_str().to_owned());
    }
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    (!matches!(&*name, "" | "(none)")).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_rewritten_and_nothing_else() {
        let before = "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: c2VydmVyOg==\n    \
                      server: https://127.0.0.1:6443\n  name: default\n- server: x";
        let after = "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: c2VydmVyOg==\n    \
                     server: https://10.0.0.1:6443\n  name: default\n- server: https://10.0.0.1:6443\n";
        assert_eq!(
            rewrite(before, "https://10.0.0.1:6443").unwrap(),
            after.as_bytes()
        );
        assert_eq!(rewrite("apiVersion: v1\n", "https://x"), None);
    }

    #[test]
    fn urls() {
        for good in [
            "https://10.0.0.1:6443",
            "https://[fd00::1]:6443",
            "https://k8s.example.com/path",
        ] {
            assert_eq!(valid_url(good), Ok(()), "{good}");
        }
        for bad in [
            "http://10.0.0.1",
            "https://",
            "https://:6443",
            "https://a b",
            "https://a\n- x: y",
            "https://a#b",
            "x",
        ] {
            assert!(valid_url(bad).is_err(), "{bad}");
        }
    }
}
