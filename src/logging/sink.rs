//! The log outputs, and the thread that writes to them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use super::line::Line;
use super::queue::Queue;
use crate::settings::{LogFormat, LogOutput};

/// The journal's native protocol socket.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Delay before retrying a write that would block.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// An output cannot be opened.
    #[error("cannot open log output {output}: {source} (see --log-outputs)")]
    Open {
        /// The output as given in the flag.
        output: String,
        /// The system's error.
        source: io::Error,
    },
    /// The writer thread cannot be started.
    #[error("cannot start the log's thread: {0}")]
    Thread(io::Error),
    /// The log was started twice.
    #[error("the log is already running")]
    Twice,
}

/// One open output.
#[derive(Debug)]
pub enum Sink {
    /// A file, a pipe or a terminal.
    Bytes(File),
    /// The journal, one datagram per line.
    Journal(UnixDatagram),
}

impl Sink {
    /// Opens an output. Standard streams are duplicated, so that a reader that stops reading blocks the
    /// writer thread, and never a lock that other threads need.
    pub fn open(output: &LogOutput) -> Result<Sink, LogError> {
        let failed = |name: &str| {
            let output = name.to_owned();
            move |source| LogError::Open { output, source }
        };
        match output {
            LogOutput::Stderr => {
                let fd = io::stderr().as_fd().try_clone_to_owned().map_err(failed("stderr"))?;
                Ok(Sink::Bytes(File::from(fd)))
            }
            LogOutput::Stdout => {
                let fd = io::stdout().as_fd().try_clone_to_owned().map_err(failed("stdout"))?;
                Ok(Sink::Bytes(File::from(fd)))
            }
            LogOutput::Journal => {
                let socket = UnixDatagram::unbound().map_err(failed("systemd/journal"))?;
                socket.connect(JOURNAL).map_err(failed("systemd/journal"))?;
                Ok(Sink::Journal(socket))
            }
            LogOutput::File(path) => open_file(path).map(Sink::Bytes),
        }
    }

    /// Writes a batch of complete lines. If an output fails, it loses the batch: the failure could be
    /// reported only to the other outputs, and the server must go on.
    fn write(&mut self, batch: &[u8]) {
        match self {
            Sink::Bytes(file) => drop(write_all_patiently(file, batch)),
            Sink::Journal(socket) => {
                for line in batch.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    drop(socket.send(&journal_entry(line)));
                }
            }
        }
    }
}

fn open_file(path: &PathBuf) -> Result<File, LogError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| LogError::Open { output: path.display().to_string(), source })
}

/// `write_all` that also retries on a non-blocking pipe.
fn write_all_patiently(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A line in the journal's native protocol. Newlines in lines are escaped.
fn journal_entry(line: &[u8]) -> Vec<u8> {
    let says = |level: &str| line.starts_with(format!("{{\"level\":\"{level}\"").as_bytes());
    let priority = match () {
        () if says("fatal") => 2,
        () if says("error") => 3,
        () if says("warn") => 4,
        () if says("debug") => 7,
        () => 6,
    };
    let mut entry = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=etcd\nMESSAGE=").into_bytes();
    entry.extend_from_slice(line);
    entry.push(b'\n');
    entry
}

/// The body of the writer thread.
pub fn write_forever(queue: &Queue, mut sinks: Vec<Sink>, format: LogFormat) {
    let mut batch = Vec::new();
    let mut told = 0;
    loop {
        queue.take(&mut batch);
        for sink in &mut sinks {
            sink.write(&batch);
        }
        let dropped = queue.dropped();
        if dropped > told {
            let mut line = Line::new(format, "warn", Some(file!()), line!());
            line.message("log lines were dropped because the log outputs did not take them");
            line.plain("dropped", dropped - told);
            line.plain("dropped-total", dropped);
            told = dropped;
            queue.push_always(&line.finish());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_cannot_be_opened_is_named() {
        let error = Sink::open(&LogOutput::File("/no/such/dir/log".into())).expect_err("no directory");
        assert!(error.to_string().starts_with("cannot open log output /no/such/dir/log: No such file"), "{error}");
    }

    #[test]
    fn log_files_are_appended_to_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        for text in ["one\n", "two\n"] {
            Sink::open(&LogOutput::File(path.clone())).expect("open").write(text.as_bytes());
        }
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "one\ntwo\n");
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn journal_entries_have_the_lines_priority() {
        for (level, priority) in [("fatal", 2), ("error", 3), ("warn", 4), ("info", 6), ("debug", 7)] {
            let line = Line::new(LogFormat::Json, level, None, 1).finish();
            let entry = String::from_utf8(journal_entry(line.trim_ascii_end())).expect("UTF-8");
            assert!(entry.starts_with(&format!("PRIORITY={priority}\n")), "{entry}");
            assert!(entry.contains("\nMESSAGE={\"level\":"), "{entry}");
        }
    }
}
