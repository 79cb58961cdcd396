//! Chooses the role: PID 1 in the initramfs, PID 1 in the root, or modprobe.

use keelson_api::init::power::Action;
use keelson_init::{boot, console, crash, machine, modprobe, power};
use std::{path::Path, process::ExitCode, time::Duration};

/// How long a person may read why the machine restarts.
const READING_TIME: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let name = Path::new(&name)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if std::process::id() != 1 {
        return match name {
            "modprobe" => ExitCode::from(modprobe::run(words)),
            _ => {
                eprintln!("{name}: this is PID 1 of Keelson; run by hand it does nothing");
                ExitCode::from(2)
            }
        };
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(|place| format!(" at {place}"))
            .unwrap_or_default();
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no reason given");
        give_up(&format!("init panicked{place}: {text}; please report this"))
    }));
    let (why, hint) = match in_initramfs() {
        true => match boot::run() {
            Err(error) => (console::chain(&error), error.hint()),
        },
        false => match machine::run() {
            Err(error) => (console::chain(&error), error.hint()),
        },
    };
    give_up(&format!("{why}; {hint}"))
}

/// Tells every console and the crash log why, waits, and restarts, so that the boot loader
/// counts the try. A watchdog that was armed stays so: it ends what hangs here.
fn give_up(why: &str) -> ! {
    console::say(&format!(
        "{why}; rebooting in {} seconds",
        READING_TIME.as_secs()
    ));
    std::thread::sleep(READING_TIME);
    crash::keep_log();
    power::finish(Action::Reboot)
}

/// The initramfs is in memory; the root never is.
fn in_initramfs() -> bool {
    const RAMFS: i64 = 0x8584_58f6;
    const TMPFS: i64 = 0x0102_1994;
    rustix::fs::statfs("/").is_ok_and(|stat| [RAMFS, TMPFS].contains(&stat.f_type))
}
