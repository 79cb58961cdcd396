//! Keelson, installed: configured at its first boot, which is not measured, and
//! powered off through its API.

use super::{
    answer::{self, Answer, Client},
    guest::{self, SHUTDOWN},
    memory::{self, Idle, Process},
};
use anyhow::{Context, Result, bail, ensure};
use keelson_api::PORT;
use keelson_tests::{BOOT, Image, Osctl, Vm, overlay};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// For how long nobody calls: an orchestrator is started half a minute after the
/// boot where no time server answers, and the stand-in tells half a minute later.
const QUIET: Duration = Duration::from_secs(70);
/// How long it may take in all.
const IDLE: Duration = Duration::from_secs(180);

/// A disk that has been booted once, and the way in.
pub(super) struct Installed {
    image: Image,
    disk: PathBuf,
    osctl: Osctl,
    client: Client,
}

/// The part of osctl's file of contexts that a caller needs.
#[derive(serde::Deserialize)]
struct Contexts {
    contexts: BTreeMap<String, Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    cert: String,
    key: String,
}

impl Installed {
    /// Boots the image for the first time, with this role, and powers it off.
    pub(super) fn make(folder: &Path, image: &Image, role: &str) -> Result<Installed> {
        let osctl = Osctl::at(folder)?;
        generate(&osctl, role)?;
        let disk = folder.join("disk.qcow2");
        guest::fresh(&disk)?;
        overlay(&image.disk(), &disk, guest::DISK_GIB)?;
        let mut vm = guest::hardware(image)
            .config(&osctl.file("machine.yaml"))
            .start_on("keelson-bench", &disk)?;
        let endpoint = vm.endpoint();
        osctl.ok(["config", "add", "bench", "--secrets", "secrets.yaml"]
            .into_iter()
            .chain(["--endpoint", &endpoint]))?;
        let path = osctl.file("osctl.yaml");
        let text = fs::read_to_string(&path)?;
        let Contexts { contexts } =
            serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        let context = contexts.get("bench").context("no context was added")?;
        let installed = Installed {
            image: image.clone(),
            disk,
            client: Client::parse(&context.cert, &context.key)?,
            osctl,
        };
        installed.first_answer(&vm)?;
        // The first answer may come before the config was found: until then nobody is trusted.
        let deadline = Instant::now() + BOOT;
        while installed.osctl.run(["version"])?.code != 0 {
            ensure!(Instant::now() < deadline, "the config is not applied");
            sleep(Duration::from_millis(500));
        }
        installed.osctl.ok(["shutdown"])?;
        vm.wait_for_exit(SHUTDOWN)?;
        Ok(installed)
    }

    /// Boots it: the first answered call, and the machine when it is idle.
    pub(super) fn measure(&self) -> Result<(Answer, Idle)> {
        let vm = guest::boot("keelson-bench", &self.image, &self.disk)?;
        let answer = self.first_answer(&vm)?;
        Ok((answer, memory::idle(&vm)?))
    }

    fn first_answer(&self, vm: &Vm) -> Result<Answer> {
        let address = vm.address(PORT);
        answer::first(vm, || answer::version(address, self.client.identity()))
    }

    /// Boots it and waits for what the stand-in says of the idle machine's programs.
    pub(super) fn programs(&self) -> Result<BTreeMap<String, Process>> {
        let vm = guest::boot("keelson-bench", &self.image, &self.disk)?;
        self.first_answer(&vm)?;
        let deadline = Instant::now() + IDLE;
        let endpoint = vm.endpoint();
        sleep(QUIET);
        loop {
            let log = self.osctl.ok(["--node", &endpoint, "logs", "standin"])?;
            if let Some(report) = last_report(&log) {
                return Ok(memory::processes(report));
            }
            if Instant::now() > deadline {
                bail!(
                    "the stand-in has not told what the programs hold; its log:\n{log}\nthe console's end:\n{}",
                    vm.console().end()
                );
            }
            sleep(Duration::from_secs(5));
        }
    }
}

/// The log outlives a reboot: what this boot wrote, if it is whole.
fn last_report(log: &str) -> Option<&str> {
    let boot = &log[log.rfind("standin server starts").unwrap_or(0)..];
    boot.contains("idle: done").then_some(boot)
}

/// Makes the files that a person would make.
fn generate(osctl: &Osctl, role: &str) -> Result<()> {
    guest::fresh(&osctl.file("osctl.yaml"))?;
    let patch = match role {
        "none" => "{}\n",
        _ => "orchestrator:\n  settings: {standin: idle}\n",
    };
    fs::write(osctl.file("patch.yaml"), patch)?;
    osctl.ok(["gen", "secrets", "--force", "--output", "secrets.yaml"])?;
    osctl.ok(["gen", "config", "--secrets", "secrets.yaml", "--force"]
        .into_iter()
        .chain(["--role", role, "--orchestrator", "standin"])
        .chain(["--hostname", "bench-1", "--patch", "patch.yaml"])
        .chain(["--output", "machine.yaml"]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_an_earlier_boot_is_not_this_ones() {
        let earlier = "standin server starts, pid 9\nidle: done\n";
        let now = "standin server starts, pid 7\nstandin is ready\n";
        assert_eq!(last_report(&format!("{earlier}{now}")), None);
        let whole = format!("{now}idle: done\n");
        assert_eq!(
            last_report(&format!("{earlier}{whole}")),
            Some(whole.as_str())
        );
    }
}
