//! The kernel's log: reads `/dev/kmsg` record by record, to its end or for ever.
//! The format is in the kernel's Documentation/ABI/testing/dev-kmsg.

use futures_util::{Stream, stream};
use rustix::io::Errno;
use std::{fs::File, io, os::unix::fs::OpenOptionsExt as _};
use tokio::net::unix::pipe::Receiver;

/// The largest record the kernel hands out.
const LARGEST: usize = 8192;

/// One record of the kernel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Counts up from 0 at boot.
    pub sequence: u64,
    /// Microseconds since the kernel started.
    pub timestamp_us: u64,
    /// syslog priority: 0 (emergency) to 7 (debug).
    pub priority: u32,
    /// The text, without a newline at its end.
    pub message: String,
}

/// The records from the oldest that the kernel keeps; with `follow` also those to come.
pub(crate) fn read(
    follow: bool,
) -> io::Result<impl Stream<Item = io::Result<Record>> + Send + use<>> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open("/dev/kmsg")?;
    // Not a pipe, but read in the same way: one read(2), and poll(2) when it would block.
    let kmsg = Receiver::from_file_unchecked(file)?;
    Ok(stream::unfold(Some(kmsg), move |kmsg| async move {
        let kmsg = kmsg?;
        match next(&kmsg, follow).await {
            Ok(Some(record)) => Some((Ok(record), Some(kmsg))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// The next record; `None` at the end unless following.
async fn next(kmsg: &Receiver, follow: bool) -> io::Result<Option<Record>> {
    let mut buffer = vec![0; LARGEST];
    loop {
        // Not by try_read: that says that it would block until the first wake has come.
        let length = match rustix::io::read(kmsg, &mut buffer[..]) {
            Ok(length) => length,
            Err(Errno::AGAIN) if follow => {
                kmsg.readable().await?;
                match kmsg.try_read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
                    Err(error) => return Err(error),
                }
            }
            Err(Errno::AGAIN) => return Ok(None),
            // The record was overwritten before it was read: the next read goes on with the
            // oldest that is left.
            Err(Errno::PIPE | Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if length == 0 {
            return Ok(None);
        }
        if let Some(record) = parse(&String::from_utf8_lossy(&buffer[..length])) {
            return Ok(Some(record));
        }
    }
}

/// Parses one record: `priority,sequence,timestamp,flags[,…];text`, then lines of
/// further facts that begin with a space. `None` if it is not one.
fn parse(record: &str) -> Option<Record> {
    let (head, rest) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let timestamp_us = fields.next()?.parse().ok()?;
    let message = rest.split('\n').next().unwrap_or_default().to_owned();
    // The upper bits are the facility.
    Some(Record {
        sequence,
        timestamp_us,
        priority: priority & 7,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_as_the_kernel_writes_them() {
        let record = |sequence, timestamp_us, priority, message: &str| {
            Some(Record {
                sequence,
                timestamp_us,
                priority,
                message: message.to_owned(),
            })
        };
        let cases = [
            (
                "6,339,5140900,-;NET: Registered protocol family 10\n",
                record(339, 5_140_900, 6, "NET: Registered protocol family 10"),
            ),
            // Facility 3 (daemon), written by user space.
            (
                "30,340,5690716,-;udevd[80]: starting\n",
                record(340, 5_690_716, 6, "udevd[80]: starting"),
            ),
            (
                "7,160,424069,-;pci_root PNP0A03:00: host bridge; ignored\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
                record(160, 424_069, 7, "pci_root PNP0A03:00: host bridge; ignored"),
            ),
            ("4,1,2,c,caller=T1;x", record(1, 2, 4, "x")),
            ("no record", None),
            ("6,x,1,-;text", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse(text), wanted, "{text:?}");
        }
    }

    #[tokio::test]
    async fn the_log_of_this_machine_is_read_to_its_end() {
        use futures_util::StreamExt as _;
        // Not every place where tests run lets them read it.
        let Ok(records) = read(false) else { return };
        let records: Vec<Record> = records.map(Result::unwrap).collect().await;
        assert!(!records.is_empty());
        assert!(
            records
                .windows(2)
                .all(|pair| pair[0].sequence < pair[1].sequence)
        );
        let Ok(following) = read(true) else { return };
        let first = Box::pin(following).next().await.unwrap().unwrap();
        assert!(first.sequence >= records[0].sequence);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".*") {
            parse(&text);
        }
    }
}
