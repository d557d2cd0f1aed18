//! The executable half of a hook tool: sends the call to the unit's agent socket, prints the answer.
//!
//! Runs inside the machine, under the tool's own name, with nothing but what Juju's environment holds.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::{Call, Reply};
use crate::wire;

/// Runs the tool `name` with `args`; gives the exit code.
pub fn run(name: &str, args: Vec<String>) -> i32 {
    let Ok(context) = std::env::var("JUJU_CONTEXT_ID") else {
        eprintln!("ERROR JUJU_CONTEXT_ID not set");
        return 1;
    };
    let Ok(socket) = std::env::var("JUJU_AGENT_SOCKET_ADDRESS") else {
        eprintln!("ERROR JUJU_AGENT_SOCKET_ADDRESS not set");
        return 1;
    };
    let output = output_file(&args);
    let call = Call { context, name: name.to_owned(), files: read_files(&args), args };
    let reply: Result<Reply, _> = UnixStream::connect(&socket)
        .and_then(|mut stream| wire::send(&mut stream, &call).and_then(|()| wire::receive(&mut stream)));
    match reply {
        Ok(reply) => print(&reply, output.as_deref()),
        Err(error) => {
            eprintln!("ERROR connection to agent socket {socket}: {error}");
            1
        }
    }
}

fn print(reply: &Reply, output: Option<&str>) -> i32 {
    let written = match output {
        Some(path) => std::fs::write(path, &reply.stdout),
        None => std::io::stdout().write_all(reply.stdout.as_bytes()),
    };
    eprint!("{}", reply.stderr);
    match written {
        Ok(()) => reply.code,
        Err(error) => {
            eprintln!("ERROR cannot write output: {error}");
            1
        }
    }
}

fn output_file(args: &[String]) -> Option<String> {
    let position = args.iter().position(|arg| arg == "-o" || arg == "--output")?;
    args.get(position + 1).cloned()
}

/// Reads every file the arguments name, here where their paths mean something.
fn read_files(args: &[String]) -> BTreeMap<String, Result<String, String>> {
    let mut paths: Vec<&str> = Vec::new();
    for (index, arg) in args.iter().enumerate() {
        if let Some(path) = arg.strip_prefix("--file=") {
            paths.push(path);
        } else if arg == "--file" {
            paths.extend(args.get(index + 1).map(String::as_str));
        } else if let Some((_, path)) = arg.split_once("#file=") {
            paths.push(path);
        }
    }
    paths.into_iter().map(|path| (path.to_owned(), read_one(path).map_err(|error| error.to_string()))).collect()
}

fn read_one(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    match path {
        "-" => std::io::stdin().read_to_string(&mut text)?,
        path => std::fs::File::open(path)?.read_to_string(&mut text)?,
    };
    Ok(text)
}
