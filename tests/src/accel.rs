//! Whether this host can run a guest with KVM. A `/dev/kvm` proves nothing: a
//! nested one may accept a guest and never run it, so a kernel is booted.

use crate::image::target;
use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

/// How guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// With the hardware's help.
    Kvm,
    /// In software: ten to thirty times slower.
    Tcg,
}

impl Accel {
    /// The options for QEMU. In software, a guest beside others is fastest on one thread of the
    /// host for all of its processors; one that has the host for itself, on a thread for each.
    pub fn options(self, has_the_host: bool) -> [&'static str; 4] {
        match (self, has_the_host) {
            (Accel::Kvm, _) => ["-accel", "kvm", "-cpu", "host"],
            (Accel::Tcg, false) => ["-accel", "tcg,thread=single,tb-size=512", "-cpu", PLAIN],
            (Accel::Tcg, true) => ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", PLAIN],
        }
    }
}

/// A processor of x86-64-v2 and no more: what is not there need not be emulated, which makes a boot
/// an eighth shorter. QEMU 7.2 gets cmpxchg16b wrong in software: a guest would panic at random.
const PLAIN: &str = "Nehalem,-cx16";

/// How a kernel ends that was given no root.
const NO_ROOT: &str = "VFS: Unable to mount root fs";

/// What works here. Probed once; `KEELSON_ACCEL=kvm|tcg` overrides.
pub fn accel(kernel: &Path) -> Accel {
    static FOUND: OnceLock<Accel> = OnceLock::new();
    *FOUND.get_or_init(|| match env::var("KEELSON_ACCEL").as_deref() {
        Ok("kvm") => Accel::Kvm,
        Ok("tcg") => Accel::Tcg,
        _ if Path::new("/dev/kvm").exists() && boots(kernel) => Accel::Kvm,
        _ => Accel::Tcg,
    })
}

/// Boots the kernel with KVM and waits ten seconds for the last thing that it says:
/// that there is no root. What it says first a guest that then hangs says too.
fn boots(kernel: &Path) -> bool {
    let log = target().join(format!("kvm-probe-{}.log", std::process::id()));
    let child = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35"])
        .args(Accel::Kvm.options(true))
        .args(["-m", "256", "-nodefaults", "-no-reboot", "-display", "none"])
        .args(["-append", "console=ttyS0 panic=-1"])
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(kernel)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut booted = false;
    let mut running = true;
    while running && !booted && Instant::now() < deadline {
        sleep(Duration::from_millis(100));
        // Looked at before the log is read: the panic ends the guest.
        running = matches!(child.try_wait(), Ok(None));
        booted = fs::read_to_string(&log).is_ok_and(|text| text.contains(NO_ROOT));
    }
    drop(child.kill());
    drop(child.wait());
    drop(fs::remove_file(&log));
    booted
}
