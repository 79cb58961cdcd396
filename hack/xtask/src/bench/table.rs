//! The figures as a table: medians, ratios, the aims, and what exactly was measured.

use super::{Figures, Report};

/// One line of the comparison: what, Keelson's, Debian's, and the largest part of
/// Debian's that Keelson's should be.
struct Line {
    what: &'static str,
    keelson: f64,
    debian: f64,
    unit: &'static str,
    aim: Option<u32>,
}

const MIB: f64 = (1 << 20) as f64;

/// What a reader must know to judge the figures.
const NOTES: &str = "\
Time: from \"EFI stub: Loaded initrd\", the kernel's first line on both consoles (the same kernel file writes it in both), \
seen within 10 ms. To Keelson's answer of Version over TLS 1.3 with a client certificate; to the first bytes of Debian's \
SSH banner, which needs no handshake. Asked every 50 ms once the machine refuses, every 250 ms before. Second boot of a \
configured disk in both. Firmware and boot loader do not count.
Memory: MemTotal - MemAvailable, 30 s after READY or the banner, less the Pss of who looked (the stand-in orchestrator; \
sshd's session and its shell). Keelson with the stand-in's image, since one without an orchestrator has nobody who could look.
Root image: EROFS and hash tree, made by the same image-builder, tools and options. Installed: the bytes of the same trees' \
files. Neither has kernel or initramfs in it. Keelson's holds a choice of the kernel's modules, Debian's all of them.
Debian: trixie, minbase with systemd, networkd and sshd; nothing that is only recommended; one ext4 root, systemd-boot, \
Debian's own initramfs, the same words for the kernel.
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
        let ratio = line.keelson / line.debian;
        let (aim, verdict) = match line.aim {
            Some(part) if ratio <= 1.0 / f64::from(part) => (format!("1/{part}"), "met"),
            Some(part) => (format!("1/{part}"), "missed"),
            None => (String::new(), ""),
        };
        let (keelson, debian) = (shown(line.keelson), shown(line.debian));
        let ratio = format!("1/{:.1}", 1.0 / ratio);
        row(
            &mut text,
            [line.what, &keelson, &debian, &ratio, &aim, verdict],
        );
    }
    text.push_str("\nKeelson's programs when idle (resident, of it private and shared by parts)\n");
    for name in ["init", "machined", "apid"] {
        let of = |bytes: fn(&super::memory::Process) -> u64| {
            let all = report.keelson.idle.iter();
            median(all.filter_map(|idle| Some(bytes(idle.processes.get(name)?) as f64)))
        };
        let rss = format!("{:.1} MiB", of(|process| process.rss_bytes) / MIB);
        let pss = format!("{:.1} MiB", of(|process| process.pss_bytes) / MIB);
        row(&mut text, [name, &rss, &pss, "", "", ""]);
    }
    text.push_str("\nEach boot, in order\n");
    for (name, figures) in [("Keelson", &report.keelson), ("Debian", &report.debian)] {
        let seconds: Vec<_> = figures
            .answer_seconds
            .iter()
            .map(|s| format!("{s:.1}"))
            .collect();
        let used: Vec<_> = figures
            .idle
            .iter()
            .map(|idle| format!("{:.1}", idle.without_observer() as f64 / MIB))
            .collect();
        text.push_str(&format!(
            "  {name}: {} s; {} MiB\n",
            seconds.join(" "),
            used.join(" ")
        ));
    }
    text.push('\n');
    text.push_str(NOTES);
    text
}

fn lines(keelson: &Figures, debian: &Figures) -> [Line; 4] {
    let seconds = |figures: &Figures| median(figures.answer_seconds.iter().copied());
    let memory = |figures: &Figures| {
        let all = figures.idle.iter();
        median(all.map(|idle| idle.without_observer() as f64)) / MIB
    };
    let line = |what, of: &dyn Fn(&Figures) -> f64, unit, aim| Line {
        what,
        keelson: of(keelson),
        debian: of(debian),
        unit,
        aim,
    };
    let image = |figures: &Figures| figures.root_image_bytes as f64 / MIB;
    let tree = |figures: &Figures| figures.root_tree_bytes as f64 / MIB;
    [
        line(
            "kernel's first line to first answer",
            &seconds,
            "s",
            Some(4),
        ),
        line("memory used when idle", &memory, "MiB", Some(3)),
        line("root image without orchestrator", &image, "MiB", Some(4)),
        line("the same root, installed", &tree, "MiB", None),
    ]
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
    use crate::bench::memory::Idle;

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
            answer_seconds: vec![seconds],
            idle: vec![Idle {
                used_bytes: used_mib << 20,
                observer_bytes: 0,
                processes: Default::default(),
            }],
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
