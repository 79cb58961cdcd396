//! A guest with an `osctl` beside it: what most tests begin with.

use crate::{Flavor, Guest, Image, NETWORK, Osctl, Vm};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{fs, thread::sleep, time::Duration};

/// A guest and the person who works on it.
pub struct Node {
    /// The guest.
    pub vm: Vm,
    /// The person's `osctl`, with `secrets.yaml`, `machine.yaml` and the context
    /// `admin` where the node is configured.
    pub osctl: Osctl,
}

impl Node {
    /// Boots without a config. Returns the node and the fingerprint on its console.
    pub fn waiting(name: &str) -> Result<(Node, String)> {
        Node::waiting_with(name, |guest| guest)
    }

    /// The same with what the guest has beside the usual.
    pub fn waiting_with(name: &str, more: impl FnOnce(Guest) -> Guest) -> Result<(Node, String)> {
        let osctl = Osctl::new()?;
        let vm = more(Guest::new(&Image::find(Flavor::Standin)?)).start(name)?;
        let node = Node { vm, osctl };
        node.generate("standin", "good")?;
        let fingerprint = node.vm.wait_for_maintenance()?;
        Ok((node, fingerprint))
    }

    /// Boots with a config that the platform offers, the tiny stand-in told how to
    /// behave, and waits until the API answers an admin.
    pub fn configured(name: &str, behaviour: &str) -> Result<Node> {
        Node::configured_with(name, behaviour, "")
    }

    /// The same with a patch of the config.
    pub fn configured_with(name: &str, behaviour: &str, patch: &str) -> Result<Node> {
        Node::configured_on(name, behaviour, patch, |guest| guest)
    }

    /// The same with what the guest has beside the usual.
    pub fn configured_on(
        name: &str,
        behaviour: &str,
        patch: &str,
        more: impl FnOnce(Guest) -> Guest,
    ) -> Result<Node> {
        let osctl = Osctl::new()?;
        fs::write(osctl.file("more.yaml"), patch)?;
        generate(&osctl, "standin", behaviour)?;
        let config = osctl.file("machine.yaml");
        let guest = Guest::new(&Image::find(Flavor::Standin)?).config(&config);
        let vm = more(guest).start(name)?;
        let node = Node { vm, osctl };
        node.context("admin", "os:admin")?;
        node.wait_for_answer(crate::BOOT)?;
        Ok(node)
    }

    /// Writes `secrets.yaml` and `machine.yaml` into the home of `osctl`.
    pub fn generate(&self, orchestrator: &str, behaviour: &str) -> Result<()> {
        generate(&self.osctl, orchestrator, behaviour)
    }

    /// Adds a context with this role and makes it the current one.
    pub fn context(&self, name: &str, role: &str) -> Result<()> {
        let endpoint = self.vm.endpoint();
        self.osctl.ok([
            "config",
            "add",
            name,
            "--secrets",
            "secrets.yaml",
            "--endpoint",
            &endpoint,
            "--role",
            role,
            "--force",
        ])?;
        self.osctl.ok(["config", "use", name])?;
        Ok(())
    }

    /// Waits until the node is healthy, as long as a boot may take and what comes after it.
    pub fn healthy(&self) -> Result<()> {
        let healthy = self.osctl.ok(["health", "--timeout", "10m"]);
        healthy.with_context(|| format!("the console's end:\n{}", self.vm.console().end()))?;
        Ok(())
    }

    /// Waits until the API answers `osctl version`.
    pub fn wait_for_answer(&self, limit: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let output = self.osctl.run(["version"])?;
            if output.code == 0 {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                anyhow::bail!(
                    "the API does not answer: {}\n{}",
                    output.stderr.trim(),
                    self.vm.console().end()
                );
            }
            sleep(Duration::from_millis(500));
        }
    }

    /// Waits until a service's log contains the text; returns the whole log.
    pub fn wait_for_log(&self, service: &str, text: &str, limit: Duration) -> Result<String> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let output = self.osctl.run(["logs", service])?;
            if output.stdout.contains(text) {
                return Ok(output.stdout);
            }
            if std::time::Instant::now() > deadline {
                anyhow::bail!(
                    "{text:?} is not in the log of {service} after {} s; its end: {}{}",
                    limit.as_secs(),
                    output
                        .stdout
                        .lines()
                        .rev()
                        .take(5)
                        .collect::<Vec<_>>()
                        .join(" | "),
                    output.stderr
                );
            }
            sleep(Duration::from_secs(1));
        }
    }
}

impl Node {
    /// Waits until the kernel's log contains the text; returns the whole log.
    pub fn wait_for_dmesg(&self, text: &str, limit: Duration) -> Result<String> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let output = self.osctl.run(["dmesg"])?;
            if output.stdout.contains(text) {
                return Ok(output.stdout);
            }
            if std::time::Instant::now() > deadline {
                anyhow::bail!("{text:?} is not in the kernel's log: {}", output.stderr);
            }
            sleep(Duration::from_secs(1));
        }
    }

    /// Waits until the resource of this kind and name is ready.
    pub fn wait_for_ready(&self, kind: &str, name: &str, limit: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let output = self.osctl.run(["get", kind, "-o", "json"])?;
            let all: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            let found = all.as_array().into_iter().flatten();
            if found
                .filter(|it| it["name"] == name)
                .any(|it| it["phase"] == "ready")
            {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                anyhow::bail!(
                    "{kind} {name} is not ready: {}{}",
                    output.stdout,
                    output.stderr
                );
            }
            sleep(Duration::from_secs(1));
        }
    }

    /// Waits until there is no resource of a kind and name any more.
    pub fn wait_until_gone(&self, kind: &str, name: &str, limit: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let all = self.osctl.ok(["get", kind, "-o", "json"])?;
            let all: Value = serde_json::from_str(&all)?;
            let mut found = all.as_array().into_iter().flatten();
            if !found.any(|it| it["name"] == name) {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                anyhow::bail!("{kind} {name} is still there: {all}");
            }
            sleep(Duration::from_secs(1));
        }
    }

    /// Waits until there are resources of a kind; returns them as JSON.
    pub fn wait_for_resource(&self, kind: &str, limit: Duration) -> Result<String> {
        self.wait_for_text(kind, "\"name\"", limit)
    }

    /// Waits until the resources of a kind contain the text; returns them as JSON.
    pub fn wait_for_text(&self, kind: &str, text: &str, limit: Duration) -> Result<String> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let output = self.osctl.run(["get", kind, "-o", "json"])?;
            if output.stdout.contains(text) {
                return Ok(output.stdout);
            }
            if std::time::Instant::now() > deadline {
                anyhow::bail!("no {kind} has {text}: {}{}", output.stdout, output.stderr);
            }
            sleep(Duration::from_secs(1));
        }
    }
}

fn generate(osctl: &Osctl, orchestrator: &str, behaviour: &str) -> Result<()> {
    fs::write(
        osctl.file("patch.yaml"),
        format!("{NETWORK}orchestrator:\n  settings: {{standin: {behaviour}}}\n"),
    )
    .context("writing the patch")?;
    osctl.ok(["gen", "secrets", "--force", "--output", "secrets.yaml"])?;
    let words = [
        "gen",
        "config",
        "--secrets",
        "secrets.yaml",
        "--role",
        "server",
        "--hostname",
        "node-1",
        "--orchestrator",
        orchestrator,
        "--force",
        "--output",
        "machine.yaml",
        "--patch",
        "patch.yaml",
    ];
    let more = fs::metadata(osctl.file("more.yaml")).is_ok_and(|file| file.len() > 0);
    osctl.ok(words.iter().chain(
        more.then_some(&["--patch", "more.yaml"])
            .into_iter()
            .flatten(),
    ))?;
    Ok(())
}
