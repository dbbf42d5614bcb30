//! Man pages, completions, units, and what the packages are made of.

mod support;

use nfs_cachefs::config::option_groups;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::Scratch;
use support::mount::PROGRAM;
use toml::de::{DeTable, DeValue};

const LIMIT: Duration = Duration::from_secs(60);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    support::process::run(command, LIMIT)
}

/// Whether a tool is there; says loudly when it is not.
fn is_installed(tool: &str, package: &str) -> bool {
    let found = Command::new(tool).arg("--version").output();
    let is_absent = found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if is_absent {
        eprintln!("SKIPPED: {tool} is not installed (apt install {package})");
    }
    !is_absent
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Folders man and completions.
fn pages(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let folder = scratch.path().join("pages");
    let output = run(PROGRAM, &["pages", text(&folder)]);
    assert!(output.status.success(), "{output:?}");
    (folder.join("man"), folder.join("completions"))
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

/// The commands that `--help` shows.
fn commands() -> Vec<String> {
    let help = String::from_utf8(run(PROGRAM, &["--help"]).stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let first = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = first.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_command_has_a_man_page_and_the_helper_names_every_option() {
    let scratch = Scratch::new("pages");
    let (man, _) = pages(&scratch);
    let written = names_in(&man);
    let commands = commands();
    assert!(commands.len() >= 15, "{commands:?}");
    for command in &commands {
        let page = format!("nfs-cachefs-{command}.8");
        assert!(written.contains(&page), "{page} of {written:?}");
    }
    assert_eq!(written.len(), commands.len() + 2, "{written:?}");
    let helper = fs::read_to_string(man.join("mount.cachefs.8")).unwrap();
    for (_, options) in option_groups() {
        for option in options {
            let bold = format!("\\fB{}\\fR", option.name.replace('-', "\\-"));
            assert!(helper.contains(&bold), "{bold} in\n{helper}");
        }
    }
    if is_installed("man", "man-db") {
        for page in written {
            let path = man.join(&page);
            let output = run("man", &["--warnings", "-l", text(&path)]);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && told.is_empty(), "{page}: {told}");
        }
    }
}

#[test]
fn completions_are_understood_by_their_shells() {
    let scratch = Scratch::new("completions");
    let (_, completions) = pages(&scratch);
    for (shell, file) in [
        ("bash", "nfs-cachefs.bash"),
        ("zsh", "_nfs-cachefs"),
        ("fish", "nfs-cachefs.fish"),
    ] {
        let path = completions.join(file);
        assert!(fs::read_to_string(&path).unwrap().contains("scrub"));
        if is_installed(shell, shell) {
            let output = run(shell, &["-n", text(&path)]);
            assert!(output.status.success(), "{shell}: {output:?}");
        }
    }
}

/// Sources of the assets in a table of Cargo.toml.
fn assets(kind: &str) -> Vec<String> {
    let cargo = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let cargo = DeTable::parse(&cargo).unwrap();
    let metadata = &cargo.get_ref()["package"].get_ref()["metadata"].get_ref()[kind];
    let list = metadata.get_ref()["assets"].get_ref().as_array().unwrap();
    let source = |asset: &DeValue<'_>| {
        let listed = asset.as_array().map(|parts| parts[0].get_ref().as_str());
        let named = || asset.get("source").map(|source| source.get_ref().as_str());
        listed.or_else(named).flatten().unwrap().to_owned()
    };
    list.iter().map(|asset| source(asset.get_ref())).collect()
}

#[test]
fn the_packages_are_made_of_files_that_exist() {
    let scratch = Scratch::new("assets");
    let (man, completions) = pages(&scratch);
    let programs = ["target/release/nfs-cachefs", "target/release/mount-cachefs"];
    for kind in ["deb", "generate-rpm"] {
        let sources = assets(kind);
        assert!(sources.len() > 10, "{kind}: {sources:?}");
        for source in &sources {
            let is_there = match source.strip_prefix("target/pages/") {
                // packaging/build compresses them.
                Some("man/*.8.gz") => !names_in(&man).is_empty(),
                Some(page) => completions
                    .join(page.trim_start_matches("completions/"))
                    .exists(),
                None => programs.contains(&source.as_str()) || repository().join(source).exists(),
            };
            assert!(is_there, "{kind}: {source}");
        }
        for program in programs {
            assert!(sources.iter().any(|source| source == program), "{kind}");
        }
    }
    for script in [
        "deb/postinst",
        "deb/prerm",
        "deb/postrm",
        "rpm/postinstall",
        "rpm/postremove",
        "build",
        "install",
    ] {
        let path = repository().join("packaging").join(script);
        assert!(run("sh", &["-n", text(&path)]).status.success(), "{script}");
    }
}

#[test]
fn the_default_settings_file_sets_nothing() {
    let path = repository().join("packaging/nfs-cachefs.toml");
    let option = format!("config={}", path.display());
    let output = run(PROGRAM, &["config", "-o", &option]);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let said = told.lines().filter(|line| !line.ends_with(" default"));
    assert_eq!(said.count(), 1, "{told}");
    // Its examples are understood, too.
    let scratch = Scratch::new("default-settings");
    let text = fs::read_to_string(&path).unwrap();
    let examples: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .collect();
    assert!(examples.len() > 5);
    let shown = scratch.path().join("examples.toml");
    fs::write(&shown, examples.join("\n")).unwrap();
    let option = format!("config={}", shown.display());
    let output = run(PROGRAM, &["config", "/mnt/cached", "-o", &option]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("metrics=127.0.0.1:9119"), "{told}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !is_installed("systemd-analyze", "systemd") {
        return;
    }
    let scratch = Scratch::new("units");
    for unit in ["nfs-cachefs@.service", "nfs-cachefs-warm@.service"] {
        let text = fs::read_to_string(repository().join("systemd").join(unit)).unwrap();
        assert!(text.contains("/usr/sbin/nfs-cachefs"), "{unit}");
        // Where the program is in this build.
        let here = text.replace("/usr/sbin/nfs-cachefs", PROGRAM);
        fs::write(scratch.path().join(unit.replace('@', "@data")), here).unwrap();
    }
    let unit = scratch.path().join("nfs-cachefs@data.service");
    let output = run("systemd-analyze", &["verify", "--man=no", text(&unit)]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("nfs-cachefs"))
        .collect();
    assert!(ours.is_empty(), "{told}");
}
