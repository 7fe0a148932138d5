//! The smallest complete service: one listener that echoes lines. The tests of a service's life run it as a process.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use keyferry_lifecycle::{During, Runtime, Scope, ServiceConfig, StartError, run};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    runtime: Runtime,
    listen: SocketAddr,
    socket: Option<PathBuf>,
    /// A task fails while the start waits for what never comes.
    #[serde(default)]
    stall: bool,
}

impl ServiceConfig for Config {
    const HEALTH_PORT: u16 = 9469;
    fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

fn main() -> ExitCode {
    run::<Config, _, _>("echo-service", serve)
}

async fn serve(config: Config, scope: Scope) -> Result<(), StartError> {
    let bus = scope.readiness_check("bus");
    let listener = scope.bind("echo", config.listen).await?;
    if let Some(path) = &config.socket {
        let socket = scope.bind_unix("attester", path)?;
        let stop = scope.clone();
        scope.spawn("attester", async move {
            tokio::select! { _ = socket.accept() => {} () = stop.cancelled() => {} }
        });
    }
    if config.stall {
        scope.spawn("stalled", async { Err::<(), _>("told to fail") });
        std::future::pending::<()>().await;
    }
    scope.spawn("echo", accept(listener, scope.clone()));
    bus.up();
    scope.ready().await.during("becoming ready")
}

async fn accept(listener: TcpListener, scope: Scope) -> Result<(), std::io::Error> {
    loop {
        tokio::select! {
            connection = listener.accept() => scope.spawn("connection", echo(connection?.0)),
            () = scope.cancelled() => return Ok(()),
        }
    }
}

/// Echoes until the peer closes: a call in flight, which a drain waits for. The lines `fail` and `panic` do what they say,
/// and `dumps?` is answered with what the kernel would do with this process's memory.
async fn echo(stream: TcpStream) -> Result<(), std::io::Error> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        if line == "fail" {
            return Err(std::io::Error::other("told to fail"));
        }
        assert!(line != "panic", "told to panic");
        let answer = if line == "dumps?" { dumps()? } else { line };
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

fn dumps() -> Result<String, std::io::Error> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Core).current;
    Ok(format!("{limit:?} {:?}", rustix::process::dumpable_behavior()?))
}
