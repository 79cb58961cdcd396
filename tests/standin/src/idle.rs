//! Says once how much memory each process of the machine holds when nothing happens on
//! it. It waits first, so that what a boot leaves behind has gone.

use std::{fs, path::Path, thread, time::Duration};

/// How long after READY=1 the machine counts as idle.
const SETTLED: Duration = Duration::from_secs(30);

/// Waits, and writes all of it: `idle: process NAME pid PID rss KIB pss KIB`, then
/// `idle: done`.
pub(crate) fn report() {
    thread::sleep(SETTLED);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for line in processes.filter_map(|entry| process(&entry.path())) {
        println!("idle: {line}");
    }
    println!("idle: done");
}

/// The line of a process; kernel threads hold no memory of their own.
fn process(folder: &Path) -> Option<String> {
    let pid: u32 = folder.file_name()?.to_str()?.parse().ok()?;
    let name = fs::read_to_string(folder.join("comm")).ok()?;
    let rollup = fs::read_to_string(folder.join("smaps_rollup")).ok()?;
    let (rss, pss) = (kib(&rollup, "Rss:")?, kib(&rollup, "Pss:")?);
    Some(format!(
        "process {} pid {pid} rss {rss} pss {pss}",
        name.trim()
    ))
}

/// The number behind a name, as proc(5) writes it: `Pss:    1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers_are_found() {
        let text = "Rss:                1520 kB\nPss:                 700 kB\nPss_Dirty:  96 kB\n";
        assert_eq!(kib(text, "Rss:"), Some(1520));
        assert_eq!(kib(text, "Pss:"), Some(700));
        assert_eq!(kib(text, "Swap:"), None);
    }

    #[test]
    fn a_process_is_one_line() {
        let own = process(Path::new("/proc/self").canonicalize().unwrap().as_path());
        let own = own.expect("this process has memory");
        assert!(
            own.contains(&format!("pid {} rss ", std::process::id())),
            "{own}"
        );
    }
}
