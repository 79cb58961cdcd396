//! The figures as a table: medians, ratios, the aims, and what exactly was measured.

use super::{Figures, Report, answer::Answer, memory::Idle};
use serde::Serialize;

/// One line of the comparison.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    what: &'static str,
    unit: &'static str,
    /// The medians.
    keelson: f64,
    debian: f64,
    /// How many times Keelson's fits into Debian's, and how often it should.
    times: f64,
    aim: Option<u32>,
}

const MIB: f64 = (1 << 20) as f64;

/// What a reader must know to judge the figures.
const NOTES: &str = "\
Time: begins with \"EFI stub: Loaded initrd\", which the same kernel file writes first on the console of both; ends with
  Keelson's answer to Version over TLS 1.3 with a client certificate, with the first bytes of Debian's SSH banner, which
  needs no handshake. Both configured, at their second boot or later. Asked every 50 ms once the machine's network is
  up (looked for every 100 ms). Firmware and boot loader do not count. Processor time: of QEMU, from first line to
  answer; what else the host does hardly touches it.
Memory: MemTotal - MemAvailable, 30 s after the first answer or the banner, as the kernel tells the hypervisor (virtio
  balloon): nobody looks from inside. Keelson without an orchestrator. The kernel counts what it keeps free for itself
  as used; the line below leaves that out. The programs are those of a machine with the stand-in of an orchestrator.
Root image: EROFS and hash tree from the same image-builder, tools and options; installed: the bytes of the same files.
  Neither holds kernel or initramfs. Keelson's holds a choice of the kernel's modules, Debian's all of them.
Debian: trixie, minbase with systemd, networkd and sshd, nothing that is only recommended; UEFI, systemd-boot, its own
  initramfs, one ext4 root, the same kernel and plain words for it. One machine at a time, in turns.
";

/// The whole table.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!(
        "Keelson {} beside Debian trixie: medians of {}, kernel {}, {}, host load {:.1} before and {:.1} after\n\n",
        report.version,
        report.runs,
        report.kernel,
        report.accelerator,
        report.host_load[0],
        report.host_load[1],
    );
    row(&mut text, ["", "Keelson", "Debian", "ratio", "aim", ""]);
    for line in lines(&report.keelson, &report.debian) {
        let shown = |value: f64| format!("{value:.1} {}", line.unit);
        let (aim, verdict) = match line.aim {
            Some(times) if line.times >= f64::from(times) => (format!("1/{times}"), "met"),
            Some(times) => (format!("1/{times}"), "missed"),
            None => (String::new(), ""),
        };
        let (keelson, debian) = (shown(line.keelson), shown(line.debian));
        let ratio = format!("1/{:.2}", line.times);
        // A line without an aim explains the one above it.
        let what = match line.aim {
            Some(_) => line.what.to_owned(),
            None => format!("  {}", line.what),
        };
        row(&mut text, [&what, &keelson, &debian, &ratio, &aim, verdict]);
    }
    text.push('\n');
    row(
        &mut text,
        ["Keelson's programs when idle", "RSS", "PSS", "", "", ""],
    );
    for name in ["init", "machined", "apid"] {
        let of = |bytes: fn(&super::memory::Process) -> u64| {
            let all = report.keelson.programs.iter();
            median(all.filter_map(|programs| Some(bytes(programs.get(name)?) as f64)))
        };
        let rss = format!("{:.1} MiB", of(|process| process.rss_bytes) / MIB);
        let pss = format!("{:.1} MiB", of(|process| process.pss_bytes) / MIB);
        row(&mut text, [name, &rss, &pss, "", "", ""]);
    }
    text.push_str("\nEach boot, in order: seconds to the answer, memory when idle\n");
    for (name, figures) in [("Keelson", &report.keelson), ("Debian", &report.debian)] {
        let seconds: Vec<_> = figures
            .answer
            .iter()
            .map(|answer| format!("{:.1}", answer.seconds))
            .collect();
        let used: Vec<_> = memory(figures, |idle| idle.used_bytes)
            .map(|mib| format!("{mib:.1}"))
            .collect();
        text.push_str(&format!(
            "  {name:<8} {} s; {} MiB\n",
            seconds.join(" "),
            used.join(" ")
        ));
    }
    text.push('\n');
    text.push_str(NOTES);
    text
}

/// The comparison, from top to bottom.
pub(super) fn lines(keelson: &Figures, debian: &Figures) -> [Line; 6] {
    let line = |what, unit, aim, of: &dyn Fn(&Figures) -> f64| {
        let (keelson, debian) = (of(keelson), of(debian));
        Line {
            what,
            unit,
            keelson,
            debian,
            times: debian / keelson,
            aim,
        }
    };
    let answer = |figures: &Figures, of: fn(&Answer) -> f64| median(figures.answer.iter().map(of));
    [
        line(
            "kernel's first line to first answer",
            "s",
            Some(4),
            &|figures| answer(figures, |answer| answer.seconds),
        ),
        line("processor time of the host in it", "s", None, &|figures| {
            answer(figures, |answer| answer.processor_seconds)
        }),
        line("memory used when idle", "MiB", Some(3), &|figures| {
            median(memory(figures, |idle| idle.used_bytes))
        }),
        line("of it neither free nor a cache", "MiB", None, &|figures| {
            median(memory(figures, |idle| idle.occupied_bytes))
        }),
        line(
            "root image without orchestrator",
            "MiB",
            Some(4),
            &|figures| figures.root_image_bytes as f64 / MIB,
        ),
        line("the same root, installed", "MiB", None, &|figures| {
            figures.root_tree_bytes as f64 / MIB
        }),
    ]
}

/// A figure of each idle machine, in MiB.
fn memory(figures: &Figures, of: fn(&Idle) -> u64) -> impl Iterator<Item = f64> {
    figures.idle.iter().map(move |idle| of(idle) as f64 / MIB)
}

fn row(text: &mut String, cells: [&str; 6]) {
    let [what, keelson, debian, ratio, aim, verdict] = cells;
    let line = format!("  {what:<36} {keelson:>11} {debian:>11} {ratio:>7} {aim:>5} {verdict}");
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The middle; between two, their mean. Of nothing it is no number.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, middle) in [
            (vec![3.0], 3.0),
            (vec![9.0, 1.0, 2.0], 2.0),
            (vec![4.0, 1.0, 3.0, 2.0], 2.5),
        ] {
            assert_eq!(median(values.into_iter()), middle);
        }
    }

    #[test]
    fn an_aim_is_met_or_missed() {
        let figures = |seconds: f64, used_mib: u64, image: u64| Figures {
            answer: vec![Answer {
                seconds,
                processor_seconds: seconds,
            }],
            idle: vec![Idle {
                used_bytes: used_mib << 20,
                occupied_bytes: used_mib << 20,
            }],
            programs: Vec::new(),
            root_image_bytes: image << 20,
            root_tree_bytes: image << 20,
        };
        let text = render(&Report {
            format_version: 1,
            version: "1".to_owned(),
            kernel: "6".to_owned(),
            accelerator: "TCG".to_owned(),
            runs: 1,
            host_load: [0.0, 0.0],
            keelson: figures(2.0, 50, 26),
            debian: figures(8.0, 100, 100),
        });
        let verdict = |start: &str| {
            let line = text.lines().find(|line| line.contains(start)).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(verdict("first answer"), "met", "{text}");
        assert_eq!(verdict("memory used"), "missed", "{text}");
        assert_eq!(verdict("root image without"), "missed", "{text}");
    }
}
