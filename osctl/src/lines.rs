//! Puts a node's name before each line of a stream that comes in pieces.

/// The state between two pieces.
pub(crate) struct Prefixed {
    prefix: Option<String>,
    line_begins: bool,
}

impl Prefixed {
    /// Without a prefix everything passes as it is.
    pub(crate) fn new(prefix: Option<String>) -> Self {
        Prefixed {
            prefix: prefix.map(|it| format!("{it}: ")),
            line_begins: true,
        }
    }

    /// The piece as it is to be written.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let Some(prefix) = &self.prefix else {
            return piece.to_vec();
        };
        let mut out = Vec::with_capacity(piece.len() + prefix.len());
        for &byte in piece {
            if self.line_begins {
                out.extend_from_slice(prefix.as_bytes());
            }
            out.push(byte);
            self.line_begins = byte == b'\n';
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_may_end_anywhere() {
        let mut lines = Prefixed::new(Some("n1".to_owned()));
        let mut out = Vec::new();
        for piece in ["on", "e\n", "\ntwo\nth", "ree"] {
            out.extend(lines.push(piece.as_bytes()));
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "n1: one\nn1: \nn1: two\nn1: three"
        );
        assert_eq!(Prefixed::new(None).push(b"a\nb"), b"a\nb");
    }
}
