//! Makes a part of the machine hang, or all of it, as nothing else on a machine without
//! a shell can: to show that it helps itself.

use crate::{assassin::find, config::Behaviour};
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, sync},
};
use std::{fs, path::Path, thread, time::Duration};

/// How long all is left in peace first.
const PEACE: Duration = Duration::from_secs(5);

/// Does it, but not again after the reboot that it causes.
pub(crate) fn once(behaviour: Behaviour, marker: &Path) {
    if marker.exists() {
        return println!("hang: it was done before");
    }
    thread::sleep(PEACE);
    if let Err(error) = note(marker).and_then(|()| hang(behaviour)) {
        println!("hang: {error:#}");
    }
}

/// Remembers it, over a reset too.
fn note(marker: &Path) -> Result<()> {
    fs::write(marker, "").with_context(|| format!("writing {}", marker.display()))?;
    sync();
    Ok(())
}

fn hang(behaviour: Behaviour) -> Result<()> {
    match behaviour {
        Behaviour::StopMachined => {
            let pid = find("machined").context("there is no machined")?;
            kill(Pid::from_raw(pid), Signal::SIGSTOP).context("stopping machined")?;
            println!("hang: machined is stopped (pid {pid})");
        }
        // No signal reaches PID 1, the freezer of its control group does.
        Behaviour::FreezeInit => {
            println!("hang: PID 1 is frozen");
            fs::write("/sys/fs/cgroup/init.scope/cgroup.freeze", "1").context("freezing PID 1")?;
        }
        Behaviour::Panic => {
            println!("hang: the kernel panics");
            fs::write("/proc/sysrq-trigger", "c").context("asking for a panic")?;
        }
        other => bail!("{other:?} is no way to hang"),
    }
    Ok(())
}
