//! Runs a demo's commands in the open: each is printed as a person would type it, with its output below.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The longest any one command of the demo may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A place to run commands in: a directory and what was exported.
#[derive(Debug, Clone)]
pub struct Shell {
    dir: PathBuf,
    env: Vec<(String, String)>,
}

impl Shell {
    /// A shell in `dir` with nothing exported.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), env: Vec::new() }
    }

    /// Prints and remembers `export name=value`.
    pub fn export(&mut self, name: &str, value: &str) {
        println!("$ export {name}={value}");
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Prints `line`, runs it, prints and returns its output. `input` is typed into it.
    pub fn run(&self, line: &str, input: Option<&str>) -> Result<String, String> {
        match input {
            None => println!("$ {line}"),
            Some(input) => println!("$ {line} <<EOF\n{input}EOF"),
        }
        let mut running = self.start(line, input)?;
        let deadline = Instant::now() + COMMAND_LIMIT;
        while running.child.try_wait().map_err(|error| format!("cannot wait for `{line}`: {error}"))?.is_none() {
            running.collect(Duration::from_millis(20));
            if Instant::now() > deadline {
                running.end();
                return Err(format!("`{line}` did not end within {} s", COMMAND_LIMIT.as_secs()));
            }
        }
        let status = running.child.wait().map_err(|error| format!("cannot wait for `{line}`: {error}"))?;
        running.drain();
        print!("{}", running.output);
        println!();
        if status.success() {
            Ok(std::mem::take(&mut running.output))
        } else {
            Err(format!("`{line}` failed ({status})"))
        }
    }

    /// Starts `line` in the background, saying so.
    pub fn background(&self, line: &str) -> Result<Running, String> {
        println!("$ {line} &");
        self.start(line, None)
    }

    fn start(&self, line: &str, input: Option<&str>) -> Result<Running, String> {
        let words = split(line);
        let fault = |error: std::io::Error| format!("cannot run `{line}`: {error}");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&self.dir).env_clear().envs(self.env.iter().cloned());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(fault)?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).map_err(fault)?;
        }
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);
        Ok(Running { child, lines, output: String::new() })
    }
}

/// A command in progress.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// What it has printed so far.
    pub output: String,
}

impl Running {
    /// Takes in what comes within `limit`.
    pub fn collect(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.output.push_str(&line);
        }
    }

    fn drain(&mut self) {
        while let Ok(line) = self.lines.recv() {
            self.output.push_str(&line);
        }
    }

    /// Ends it.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn forward(pipe: Option<impl Read + Send + 'static>, sender: mpsc::Sender<String>) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line + "\n").is_err() {
                return;
            }
        }
    });
}

/// Words of a command line; double quotes keep blanks together.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().into_iter().for_each(|word| word.push(letter)),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_blanks_stay_in_one_word() {
        assert_eq!(split("etcdctl put a \"b c\""), ["etcdctl", "put", "a", "b c"]);
    }

    #[test]
    fn a_failing_command_is_an_error_and_input_reaches_it() {
        let shell = Shell::new(Path::new("/"));
        assert!(shell.run("false", None).is_err());
        assert_eq!(shell.run("cat", Some("typed\n")).unwrap(), "typed\n");
    }
}
