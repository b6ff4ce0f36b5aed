//! The sample app: a web server that says which version it is, and that fails in the ways that real apps do.
//!
//! `GET /` answers its version and its `user_config`, `GET /health` the same as JSON with its process id, with status
//! 200 or, unhealthy, 500. TERM ends it at once. Assumes that `CONFIG_PATH`, when set, is a file with a JSON object.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

const HELP: &str = "\
slug, the sample app of Platypus.

  --version X      what to answer; default: unknown
  --port N         where to listen; default: \"port\" in the user_config, else 1212; 0 is any free one
  --bind ADDR      default: \"bind\" in the user_config, else 127.0.0.1
  --check          ask the one that runs with this configuration, and exit 0 if it is healthy

and to misbehave:

  --unhealthy      answer GET /health with 500; also with \"unhealthy\": true in the user_config
  --ignore-term    only KILL ends it
  --fork-child     leave a child that ignores TERM in the same process group
  --slow-start MS  listen only after so many milliseconds
  --exit CODE      exit at once

The environment's CONFIG_PATH is the path of a JSON file: the user_config.";

/// Set in a process in which TERM is ignored already.
const IGNORES_TERM: &str = "SLUG_IGNORES_TERM";

fn main() -> ExitCode {
    match Options::parse(env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("slug: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    help: bool,
    version: Option<String>,
    port: Option<u16>,
    bind: Option<String>,
    check: bool,
    unhealthy: bool,
    ignore_term: bool,
    fork_child: bool,
    /// Only be there: what `--fork-child` starts.
    linger: bool,
    slow_start: Duration,
    exit: Option<u8>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => options.help = true,
                "--version" => options.version = Some(value()?),
                "--port" => options.port = Some(number(&arg, &value()?)?),
                "--bind" => options.bind = Some(value()?),
                "--check" => options.check = true,
                "--unhealthy" => options.unhealthy = true,
                "--ignore-term" => options.ignore_term = true,
                "--fork-child" => options.fork_child = true,
                "--linger" => options.linger = true,
                "--slow-start" => options.slow_start = Duration::from_millis(number(&arg, &value()?)?),
                "--exit" => options.exit = Some(number(&arg, &value()?)?),
                _ => return Err(format!("no option {arg}; see slug --help")),
            }
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} {value}: not a number that it can be"))
}

fn run(options: &Options) -> Result<ExitCode, String> {
    if options.help {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(code) = options.exit {
        eprintln!("slug: exiting with {code}, as told");
        return Ok(code.into());
    }
    if options.ignore_term && env::var_os(IGNORES_TERM).is_none() {
        return Err(again_without_term());
    }
    if options.linger {
        println!("lingering");
        loop {
            thread::park();
        }
    }
    let slug = Slug::new(options, user_config()?)?;
    if options.check { Ok(check(slug.port)) } else { slug.serve(options) }
}

/// This program again with TERM ignored, which a shell can do, and which lasts through an exec.
fn again_without_term() -> String {
    let error = ignoring_term().args(env::args_os().skip(1)).exec();
    format!("ignoring TERM: {error}")
}

fn ignoring_term() -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"trap "" TERM; exec "$0" "$@""#]);
    command.arg(env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into())).env(IGNORES_TERM, "1");
    command
}

fn user_config() -> Result<Map<String, Value>, String> {
    let Some(path) = env::var_os("CONFIG_PATH") else { return Ok(Map::new()) };
    let config = fs::read(&path).map_err(|error| error.to_string());
    let config = config.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    config.map_err(|error| format!("CONFIG_PATH {}: {error}", path.display()))
}

/// What is served.
struct Slug {
    version: String,
    bind: String,
    port: u16,
    unhealthy: bool,
    user_config: Map<String, Value>,
}

impl Slug {
    fn new(options: &Options, user_config: Map<String, Value>) -> Result<Self, String> {
        let port = match user_config.get("port") {
            None => 1212,
            Some(port) => port.as_u64().and_then(|port| port.try_into().ok()).ok_or(format!("{port} is not a port"))?,
        };
        let bind = user_config.get("bind").and_then(Value::as_str).unwrap_or("127.0.0.1");
        Ok(Self {
            version: options.version.clone().unwrap_or_else(|| "unknown".to_owned()),
            bind: options.bind.clone().unwrap_or_else(|| bind.to_owned()),
            port: options.port.unwrap_or(port),
            unhealthy: options.unhealthy || user_config.get("unhealthy") == Some(&true.into()),
            user_config,
        })
    }

    fn serve(&self, options: &Options) -> Result<ExitCode, String> {
        let child = if options.fork_child { Some(leave_child()?.id()) } else { None };
        thread::sleep(options.slow_start);
        let addr = (self.bind.as_str(), self.port);
        let listener =
            TcpListener::bind(addr).map_err(|error| format!("listening on {}:{}: {error}", addr.0, addr.1))?;
        eprintln!("slug {}: listening on {}:{}", self.version, self.bind, self.port);
        let health = json!({
            "version": self.version, "user_config": self.user_config, "pid": process::id(), "child": child,
        });
        let root = format!("slug {}\n{}\n", self.version, Value::Object(self.user_config.clone()));
        thread::scope(|scope| {
            for stream in listener.incoming().flatten() {
                let (root, health) = (&root, &health);
                // A client that goes away is its own business.
                scope.spawn(move || self.answer(&stream, root, health).is_ok());
            }
        });
        Ok(ExitCode::SUCCESS)
    }

    fn answer(&self, mut stream: &TcpStream, root: &str, health: &Value) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().unwrap_or(Ok(String::new()))?;
        // The rest of the head too, since closing on what is unread would reset the connection.
        lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (status, body) = match path.split('?').next().unwrap_or_default() {
            "/" => ("200 OK", root.to_owned()),
            "/health" if self.unhealthy => ("500 Internal Server Error", format!("{health}\n")),
            "/health" => ("200 OK", format!("{health}\n")),
            _ => ("404 Not Found", "slugs know / and /health\n".to_owned()),
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(answer.as_bytes())
    }
}

/// A child that outlives us, unless somebody kills the process group. It ignores TERM already when we return.
fn leave_child() -> Result<Child, String> {
    let start = || {
        let mut child = ignoring_term().arg("--linger").stdout(Stdio::piped()).spawn()?;
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut String::new())?;
        Ok(child)
    };
    start().map_err(|error: io::Error| format!("starting a child: {error}"))
}

fn check(port: u16) -> ExitCode {
    let status = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        BufReader::new(stream).lines().next().unwrap_or(Ok(String::new()))
    };
    match status() {
        Ok(line) if line.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(line) => failing(&line),
        Err(error) => failing(&error.to_string()),
    }
}

fn failing(why: &str) -> ExitCode {
    eprintln!("slug: not healthy: {why}");
    ExitCode::FAILURE
}
