//! `cargo xtask stack`: the demo's installation, in the foreground until Ctrl-C.

use std::{
    fs,
    path::{Path, PathBuf},
};

use keyferry_testkit::{
    StartFailure,
    stack::{Stack, StackDescription, StackOptions, Steps},
    write_private,
};
use tokio::signal::unix::SignalKind;

use crate::{demo, run};

/// Flags of `stack`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    demo: demo::Arguments,
    /// How many confidential VMs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    tds: u8,
    /// A file of NAME=VALUE lines, given to every service; may be repeated
    #[arg(long = "env-file", value_name = "FILE")]
    environment_files: Vec<PathBuf>,
    /// Where spans go over OTLP/gRPC, e.g. http://127.0.0.1:4317
    #[arg(long)]
    otlp: Option<String>,
    /// The directory for stack.json, configurations and logs; it is emptied first and removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), StartFailure> {
    run::build_programs()?;
    run::runtime()?.block_on(serve(arguments))
}

async fn serve(arguments: &Arguments) -> Result<(), StartFailure> {
    let mut options = StackOptions::new(arguments.dir.clone().unwrap_or_else(|| run::target_directory().join("stack")));
    options.kms = arguments.demo.kms;
    options.model = arguments.demo.model;
    options.tds = usize::from(arguments.tds);
    options.otlp_url.clone_from(&arguments.otlp);
    for file in &arguments.environment_files {
        options.environment.extend(environment(file)?);
    }
    own(&options.directory)?;
    let mut steps = Steps::new(|name| eprintln!("stack: {}", name.replace('_', " ")));
    let directory = options.directory.clone();
    let (mut interrupt, mut terminate) = (run::listen(SignalKind::interrupt())?, run::listen(SignalKind::terminate())?);
    let Some(stack) = run::unless_interrupted(Stack::start(options, &mut steps)).await? else { return run::remove(&directory) };
    let stack = stack?;
    let file = stack.directory().join("stack.json");
    let text = serde_json::to_string_pretty(&stack.description).unwrap_or_default();
    write_private(&file, &text)?;
    eprintln!("stack: ready; it is described in {}; Ctrl-C ends it", file.display());
    if arguments.demo.json {
        println!("{}", serde_json::to_string(&stack.description).unwrap_or_default());
    }
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    eprintln!("stack: stopping");
    stack.stop().await?;
    run::remove(&directory)
}

/// Only a directory that is empty, new, or an earlier stack's is emptied: a slip of the keyboard must not cost a home.
fn own(directory: &Path) -> Result<(), StartFailure> {
    let foreign = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) && !directory.join("simulation").is_dir();
    if foreign {
        return Err(StartFailure::new(
            format!("{} is not empty and no stack's directory", directory.display()),
            "choose an empty or new directory",
        ));
    }
    if let Some(pid) = running_in(directory) {
        return Err(StartFailure::new(
            format!("a stack is running in {} (process {pid})", directory.display()),
            "end it first, or choose another directory with --dir",
        ));
    }
    Ok(())
}

/// A service of the stack that `stack.json` describes, if it still runs: one that was started from this directory.
fn running_in(directory: &Path) -> Option<u32> {
    let directory = std::path::absolute(directory).ok()?;
    let description: StackDescription = serde_json::from_slice(&fs::read(directory.join("stack.json")).ok()?).ok()?;
    let configured_here = |pid: &u32| {
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command_line).contains(&*directory.to_string_lossy())
    };
    description.services.values().map(|service| service.pid).find(configured_here)
}

/// Docker's env-file form: NAME=VALUE, `#` comments, no quoting, no expansion.
fn environment(file: &Path) -> Result<Vec<(String, String)>, StartFailure> {
    let text = fs::read_to_string(file)
        .map_err(|error| StartFailure::new(format!("{} cannot be read: {error}", file.display()), "check --env-file"))?;
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| match line.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
            _ => Err(StartFailure::new(format!("{}:{number}: not a NAME=VALUE line", file.display()), "write one variable a line")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_as_docker_reads_them() {
        let directory = std::env::temp_dir().join(format!("keyferry-env-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("kbs.env");
        fs::write(&file, "# comment\nLOG_LEVEL=INFO\n\nKEY=a=b\n").unwrap();
        let wanted = [("LOG_LEVEL", "INFO"), ("KEY", "a=b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment(&file).unwrap(), wanted);
        fs::write(&file, "LOG_LEVEL\n").unwrap();
        assert!(environment(&file).unwrap_err().to_string().contains("kbs.env:1"));
        assert!(own(&directory).is_err(), "a directory with other files is not emptied");
        fs::remove_dir_all(&directory).unwrap();
        assert!(own(&directory).is_ok());
    }
}
