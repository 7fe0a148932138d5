//! The command line that every service has.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

pub(crate) struct Arguments {
    pub(crate) config: Option<PathBuf>,
    pub(crate) settings: Vec<String>,
    pub(crate) check_only: bool,
}

pub(crate) fn parse(service: &'static str) -> Arguments {
    from_matches(&command(service).get_matches())
}

fn command(service: &'static str) -> Command {
    Command::new(service)
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!("Keyferry's {service} service"))
        .after_help(
            "Configuration: defaults, then the file, then variables KEYFERRY_... (`__` nests), then --set.\n\
             SIGTERM and SIGINT drain. Exit codes: 0 drained, 64 bad configuration, 69 start failed, 70 a task failed.",
        )
        .arg(Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf)).help("Configuration in TOML"))
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("One setting, e.g. --set bus.url=tls://localhost:4222"),
        )
        .arg(Arg::new("check").long("check").action(ArgAction::SetTrue).help("Check the configuration and exit"))
}

fn from_matches(matches: &ArgMatches) -> Arguments {
    Arguments {
        config: matches.get_one::<PathBuf>("config").cloned(),
        settings: matches.get_many::<String>("set").map(|values| values.cloned().collect()).unwrap_or_default(),
        check_only: matches.get_flag("check"),
    }
}
