//! `keyferry reference-value`: the directory of reference values that a token-broker reads.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use keyferry_reference_value::{Action, Catalog, Document, HISTORY_FILE, History, Signer, VerificationKey, lint, sign};

use crate::output::{self, CommandResult, Failure, NO};

/// The commands about reference values.
#[derive(Debug, Subcommand)]
pub(crate) enum ReferenceValueCommand {
    /// Take a document in, signed already, signed with `--sign-with`, or unsigned.
    Add(Add),
    /// List every document and how it stands.
    List(Place),
    /// Show one document and what was done with it.
    Show(Named),
    /// End a document for good: no later addition brings its id back.
    Revoke(Revoke),
    /// Say what documents leave open: exit code 1 if there is something.
    Lint(Place),
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Place {
    /// Where the documents and their history are.
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Public keys (PEM) whose signatures are believed.
    #[arg(long = "key", value_name = "FILE.pem")]
    keys: Vec<PathBuf>,
    /// Believe unsigned documents too.
    #[arg(long)]
    trust_unsigned: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    #[command(flatten)]
    place: Place,
    /// The document.
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Reasoned {
    /// Who does it; goes into the history.
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why; goes into the history.
    #[arg(long, value_name = "TEXT")]
    why: String,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    reasoned: Reasoned,
    /// The document, or its DSSE envelope.
    file: PathBuf,
    /// Sign it with this private key (PKCS#8 in PEM, Ed25519 or P-256).
    #[arg(long, value_name = "FILE.pem")]
    sign_with: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    reasoned: Reasoned,
}

/// Runs one of them.
pub(crate) fn run(command: ReferenceValueCommand) -> CommandResult {
    match command {
        ReferenceValueCommand::Add(add) => add.run(),
        ReferenceValueCommand::List(place) => list(&place),
        ReferenceValueCommand::Show(named) => show(&named),
        ReferenceValueCommand::Revoke(Revoke { named, reasoned }) => {
            named.place.append(Action::Revoke, &named.id, "", &reasoned)?;
            Ok(ExitCode::SUCCESS)
        }
        ReferenceValueCommand::Lint(place) => lint_all(&place),
    }
}

impl Place {
    fn history(&self) -> Result<String, Failure> {
        let path = self.directory.join(HISTORY_FILE);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| failed(&path, &error)),
        }
    }

    fn catalog(&self) -> Result<Catalog, Failure> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(|error| failed(&self.directory, &error))? {
            let path = entry.map_err(|error| failed(&self.directory, &error))?.path();
            if let Some(id) = path.extension().filter(|end| *end == "json").and(path.file_stem()).and_then(|stem| stem.to_str()) {
                files.push((id.to_owned(), read(&path)?));
            }
        }
        let key = |path: &PathBuf| VerificationKey::from_pem(&read(path)?).map_err(|error| failed(path, &error));
        let keys = self.keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        Ok(Catalog::new(files, &self.history()?, &keys, self.trust_unsigned))
    }

    fn append(&self, action: Action, id: &str, digest: &str, reasoned: &Reasoned) -> Result<(), Failure> {
        let history = History::parse(&self.history()?).map_err(|error| Failure::failed(error.to_string()))?;
        let at = i64::try_from(now()).ok().and_then(|now| Timestamp::from_second(now).ok()).unwrap_or(Timestamp::MAX);
        let line = history.next_line(at, action, id, digest, &reasoned.by, &reasoned.why);
        let path = self.directory.join(HISTORY_FILE);
        let opened = fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| failed(&path, &error))
    }
}

impl Add {
    fn run(&self) -> CommandResult {
        let mut bytes = read(&self.file)?;
        if let Some(path) = &self.sign_with {
            let signer = Signer::from_pem(&read(path)?).map_err(|error| failed(path, &error))?;
            bytes = sign(&bytes, &signer).map_err(|error| failed(path, &error))?.into_bytes();
        }
        let document = Document::of_file(&bytes).map_err(|error| Failure::usage(format!("{}: {error}", self.file.display())))?;
        let (id, place) = (document.id(), &self.place);
        let history = History::parse(&place.history()?).map_err(|error| Failure::failed(error.to_string()))?;
        if history.revocation(id).is_some() {
            let hint = "give the corrected document an id of its own";
            return Err(Failure::failed(format!("{id} was revoked, and stays so")).hint(hint));
        }
        for warning in lint(&document) {
            output::talk(format!("{id}: {warning}"));
        }
        let path = place.directory.join(format!("{id}.json"));
        fs::write(&path, &bytes).map_err(|error| failed(&path, &error))?;
        place.append(Action::Add, id, &History::file_digest(&bytes), &self.reasoned)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn list(place: &Place) -> CommandResult {
    let (catalog, now) = (place.catalog()?, now());
    let standing = |id: &str| catalog.in_force(id, now).map_or_else(|denial| denial.to_string(), |_| "in force".to_owned());
    let rows: Vec<[String; 2]> = catalog.ids().into_iter().map(|id| [output::printable(id), output::printable(&standing(id))]).collect();
    output::data(output::table(["ID", "STANDING"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn show(named: &Named) -> CommandResult {
    let catalog = named.place.catalog()?;
    let path = named.place.directory.join(format!("{}.json", named.id));
    if catalog.standing(&named.id).is_some() {
        output::data(output::printable(&String::from_utf8_lossy(&read(&path)?)))?;
    }
    for entry in catalog.history().map_err(|error| Failure::failed(error.to_string()))?.entries() {
        if entry.id == named.id {
            output::talk(output::printable(&format!("{} {:?} by {}: {}", entry.at, entry.action, entry.by, entry.why)));
        }
    }
    match catalog.in_force(&named.id, now()) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(denial) => Err(Failure::failed(format!("{} is not in force: {denial}", named.id))),
    }
}

fn lint_all(place: &Place) -> CommandResult {
    let (catalog, mut found) = (place.catalog()?, false);
    for id in catalog.ids() {
        let Ok(document) = catalog.in_force(id, now()) else { continue };
        for warning in lint(document) {
            found = true;
            output::data(output::printable(&format!("{id}: {warning}")))?;
        }
    }
    Ok(if found { ExitCode::from(NO) } else { ExitCode::SUCCESS })
}

/// Unix seconds.
fn now() -> u64 {
    keyferry_lifecycle::clock::now()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}
