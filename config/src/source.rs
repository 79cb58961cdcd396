//! The text of a config: from offsets to lines and columns, and lines as they
//! may be shown. Secrets are starred out here, for excerpts and for whole texts.

use crate::diagnostic::Excerpt;
use std::ops::Range;

/// A part of the text, all in one line, that is shown as something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mask {
    /// The bytes that are not shown.
    pub(crate) range: Range<usize>,
    /// What is shown instead.
    pub(crate) shown: &'static str,
}

/// A text, its lines and its masks.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// In order, without overlap.
    masks: Vec<Mask>,
}

/// Where something stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Counted from 1.
    pub(crate) line: u32,
    /// In characters, counted from 1.
    pub(crate) column: u32,
    /// The line as it may be shown.
    pub(crate) excerpt: Option<Excerpt>,
}

/// An excerpt shows so many characters before the value …
const BEFORE: usize = 60;
/// … and so many from its beginning.
const AFTER: usize = 60;

impl<'a> Source<'a> {
    /// A text. Masks may be in any order and may overlap.
    pub(crate) fn new(text: &'a str, mut masks: Vec<Mask>) -> Self {
        let mut lines = vec![0];
        lines.extend(
            text.bytes()
                .enumerate()
                .filter(|&(_, b)| b == b'\n')
                .map(|(at, _)| at + 1),
        );
        masks.sort_by_key(|mask| (mask.range.start, std::cmp::Reverse(mask.range.end)));
        masks.dedup_by(|next, before| next.range.start < before.range.end);
        Source { text, lines, masks }
    }

    /// The line that an offset is in, counted from 0.
    fn line_of(&self, offset: usize) -> usize {
        self.lines
            .partition_point(|&start| start <= offset)
            .saturating_sub(1)
    }

    /// The bytes of a line without its end.
    fn line_range(&self, line: usize) -> Range<usize> {
        let start = self.lines[line];
        let end = self.lines.get(line + 1).copied().unwrap_or(self.text.len());
        start..start + self.text[start..end].trim_end_matches(['\n', '\r']).len()
    }

    /// The masks within a line.
    fn masks_in(&self, line: &Range<usize>) -> &[Mask] {
        let from = self
            .masks
            .partition_point(|mask| mask.range.end <= line.start);
        let to = self
            .masks
            .partition_point(|mask| mask.range.start < line.end);
        &self.masks[from.min(to)..to]
    }

    /// Where a range begins, and its first line with the range marked.
    pub(crate) fn place(&self, range: &Range<usize>) -> Place {
        let mut start = range.start.min(self.text.len());
        // What is missing at the very end is shown behind the last line that says something.
        if start == self.text.len() {
            start = self.text.trim_end().len();
        }
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let line = self.line_of(start);
        let bounds = self.line_range(line);
        let start = start.min(bounds.end);
        let end = range.end.clamp(start, bounds.end);
        let column = self.text[bounds.start..start].chars().count();
        Place {
            line: u32::try_from(line + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            excerpt: Some(self.excerpt(bounds, start..end)),
        }
    }

    fn excerpt(&self, line: Range<usize>, value: Range<usize>) -> Excerpt {
        let whole = line.clone();
        let line = self.window(line, value.start);
        let mut shown: Vec<char> = Vec::new();
        let (mut from, mut to) = (None, None);
        let mut at = line.start;
        let masks = self.masks_in(&line);
        let mut push = |chars: &str, range: Range<usize>, masked: bool| {
            let mut offset = range.start;
            for c in chars.chars() {
                if from.is_none() && (offset >= value.start || (masked && range.end > value.start))
                {
                    from = Some(shown.len());
                }
                if to.is_none() && offset >= value.end && !(masked && range.start < value.end) {
                    to = Some(shown.len());
                }
                shown.push(if c == '\t' || c.is_control() { ' ' } else { c });
                if !masked {
                    offset += c.len_utf8();
                }
            }
        };
        for mask in masks {
            let range = mask.range.start.clamp(at, line.end)..mask.range.end.clamp(at, line.end);
            push(&self.text[at..range.start], at..range.start, false);
            push(mask.shown, range.clone(), true);
            at = range.end;
        }
        push(&self.text[at..line.end], at..line.end, false);
        let from = from.unwrap_or(shown.len());
        let width = to.unwrap_or(shown.len()).saturating_sub(from).max(1);
        let skip = from.saturating_sub(BEFORE);
        let keep = (from + AFTER).min(shown.len());
        let mut text = String::new();
        let cut = skip > 0 || line.start > whole.start;
        if cut {
            text.push('…');
        }
        text.extend(&shown[skip..keep]);
        if keep < shown.len() || line.end < whole.end {
            text.push('…');
        }
        let text = text.trim_end().to_owned();
        Excerpt {
            text,
            before: from - skip + usize::from(cut),
            width: width.min(AFTER),
        }
    }

    /// The part of a line that an excerpt may need, so that a line of a megabyte
    /// costs no more than another.
    fn window(&self, line: Range<usize>, at: usize) -> Range<usize> {
        const BYTES: usize = 512;
        let mut start = at.saturating_sub(BYTES).max(line.start);
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = (at + BYTES).min(line.end);
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }

    /// The whole text as it may be shown. It has the same lines.
    pub(crate) fn masked(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut at = 0;
        for mask in &self.masks {
            out.push_str(&self.text[at..mask.range.start]);
            out.push_str(mask.shown);
            at = mask.range.end;
        }
        out.push_str(&self.text[at..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(
        text: &str,
        masks: &[(Range<usize>, &'static str)],
        value: Range<usize>,
    ) -> (u32, u32, String) {
        let masks = masks
            .iter()
            .map(|(range, shown)| Mask {
                range: range.clone(),
                shown,
            })
            .collect();
        let place = Source::new(text, masks).place(&value);
        let excerpt = place.excerpt.unwrap();
        (
            place.line,
            place.column,
            format!(
                "{}\n{:2$}{1:^<3$}",
                excerpt.text, "", excerpt.before, excerpt.width
            ),
        )
    }

    #[test]
    fn places() {
        type Case = (
            &'static str,
            &'static str,
            &'static [(Range<usize>, &'static str)],
            Range<usize>,
            (u32, u32, &'static str),
        );
        let cases: &[Case] = &[
            (
                "a value",
                "a: 1\nb: 22\n",
                &[],
                8..10,
                (2, 4, "b: 22\n   ^^"),
            ),
            (
                "wide characters are one column",
                "ä: ö\n",
                &[],
                4..6,
                (1, 4, "ä: ö\n   ^"),
            ),
            (
                "a windows line end",
                "a: 1\r\nb: 2\r\n",
                &[],
                9..10,
                (2, 4, "b: 2\n   ^"),
            ),
            (
                "more than a line",
                "a: |\n  x\n  y\n",
                &[],
                3..12,
                (1, 4, "a: |\n   ^"),
            ),
            (
                "the end of the text",
                "a: 1\n",
                &[],
                5..5,
                (1, 5, "a: 1\n    ^"),
            ),
            (
                "tabs count as one",
                "\ta: 1\n",
                &[],
                4..5,
                (1, 5, " a: 1\n    ^"),
            ),
            (
                "a secret",
                "t: hush\n",
                &[(3..7, "***")],
                3..7,
                (1, 4, "t: ***\n   ^^^"),
            ),
            (
                "behind a secret",
                "{t: hush, b: 2}\n",
                &[(4..8, "***")],
                13..14,
                (1, 14, "{t: ***, b: 2}\n            ^"),
            ),
            (
                "within a secret",
                "t: hush hush\n",
                &[(3..12, "***")],
                8..12,
                (1, 4 + 5, "t: ***\n   ^^^"),
            ),
            (
                "before a secret",
                "t: hush\n",
                &[(3..7, "***")],
                0..1,
                (1, 1, "t: ***\n^"),
            ),
        ];
        for (name, text, masks, value, (line, column, want)) in cases {
            assert_eq!(
                shown(text, masks, value.clone()),
                (*line, *column, (*want).to_owned()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_value() {
        let text = format!("{}VALUE{}", "x".repeat(1000), "y".repeat(1000));
        let (line, column, drawn) = shown(&text, &[], 1000..1005);
        assert_eq!((line, column), (1, 1001));
        assert_eq!(drawn.lines().next().unwrap().chars().count(), 60 + 60 + 2);
        assert_eq!(
            drawn.lines().nth(1).unwrap(),
            format!("{}^^^^^", " ".repeat(61))
        );
    }
}
