//! What is told of a source, and what a client sends.

use super::*;

#[test]
fn a_password_in_a_url_is_not_told() {
    let source = Source::Url("https://me:secret@mirror.example/x".into());
    assert_eq!(source.said(), ", from mirror.example");
}

#[tokio::test]
async fn pieces_are_read_as_they_come() {
    let (sender, pieces) = mpsc::channel(4);
    for piece in ["ab", "", "cde"] {
        sender.send(Ok(Bytes::from(piece))).await.unwrap();
    }
    sender.send(Err("gone".into())).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut reader = Pieces {
            pieces,
            piece: Bytes::new(),
        };
        let mut bytes = [0; 5];
        reader.read_exact(&mut bytes).unwrap();
        (bytes, reader.read(&mut [0; 1]).unwrap_err().to_string())
    });
    assert_eq!(read.await.unwrap(), (*b"abcde", "gone".to_owned()));
}
