//! Sizes as Kubernetes writes them.

use super::Wrong;
use crate::tree::quote;

/// The units of Kubernetes' quantities that make sense for memory and disks.
const UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

/// A size in bytes, a whole number with its unit: `512Mi`, `10Gi`, `4T`.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let malformed = || Wrong::new(format!("{} is not a size", quote(text)));
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        // 10GB, 10GiB, 10gi: what was meant can be told.
        let bare = unit.trim_end_matches(['b', 'B']);
        let meant = UNITS
            .iter()
            .find(|(name, _)| !bare.is_empty() && name.eq_ignore_ascii_case(bare));
        let hint = match meant {
            Some((name, _)) if !number.is_empty() => format!("write {number}{name}"),
            _ => "write a whole number and its unit, as in 512Mi or 10Gi".to_owned(),
        };
        return Err(malformed().hint(hint));
    };
    let number: u64 = number
        .parse()
        .map_err(|_| malformed().hint("write a whole number and its unit, as in 512Mi or 10Gi"))?;
    number
        .checked_mul(*factor)
        .filter(|bytes| *bytes < 1 << 60)
        .ok_or_else(|| Wrong::new(format!("{} is larger than any disk", quote(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("512Mi", 512 << 20),
            ("10Gi", 10 << 30),
            ("4T", 4_000_000_000_000),
            ("0Ki", 0),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_was_meant_is_told() {
        for (text, hint) in [
            ("10GB", "write 10G"),
            ("10GiB", "write 10Gi"),
            ("10gi", "write 10Gi"),
            (
                "10",
                "write a whole number and its unit, as in 512Mi or 10Gi",
            ),
            (
                "Gi",
                "write a whole number and its unit, as in 512Mi or 10Gi",
            ),
            (
                "1.5Gi",
                "write a whole number and its unit, as in 512Mi or 10Gi",
            ),
            (
                "-1Gi",
                "write a whole number and its unit, as in 512Mi or 10Gi",
            ),
            ("", "write a whole number and its unit, as in 512Mi or 10Gi"),
        ] {
            assert_eq!(size(text).unwrap_err().hint, hint, "{text}");
        }
        let huge = size("18446744073709551615Ti").unwrap_err();
        assert!(huge.message.contains("larger than any disk"), "{huge:?}");
        assert!(size("99999999999999999999Ti").is_err());
    }
}
