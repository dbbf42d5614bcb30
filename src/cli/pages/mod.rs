//! `nfs-cachefs pages FOLDER`: man pages and shell completions, written from the definitions that the program itself
//! goes by. For who packages it.
//!
//! - `helper`: the page of the mount helper, whose options are the table of `config`

mod helper;

use super::complain;
use crate::daemon::error::exit_status;
use clap::{Command, CommandFactory};
use clap_complete::aot::{Shell, generate_to};
use clap_mangen::Man;
use std::fs::{File, create_dir_all};
use std::io;
use std::path::{Path, PathBuf};

const NAME: &str = "nfs-cachefs";
/// Commands for the administrator.
const SECTION: &str = "8";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where man/ and completions/ are written
    folder: PathBuf,
}

pub fn run(arguments: &Arguments) -> i32 {
    match write_all(&arguments.folder) {
        Ok(()) => exit_status::SUCCESS,
        Err(error) => {
            complain(format_args!("{}: {error}", arguments.folder.display()));
            exit_status::SYSTEM
        }
    }
}

fn write_all(folder: &Path) -> io::Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    create_dir_all(&man)?;
    create_dir_all(&completions)?;
    let mut program = super::Arguments::command().disable_help_subcommand(true);
    program.build();
    write_page(&man, program.clone(), NAME)?;
    for command in program.get_subcommands() {
        if !command.is_hide_set() {
            let name = format!("{NAME}-{}", command.get_name());
            write_page(&man, command.clone(), &name)?;
        }
    }
    helper::write(&mut File::create(
        man.join(format!("mount.cachefs.{SECTION}")),
    )?)?;
    for shell in SHELLS {
        generate_to(shell, &mut program, NAME, &completions)?;
    }
    Ok(())
}

fn write_page(folder: &Path, command: Command, name: &str) -> io::Result<()> {
    let page = Man::new(command).section(SECTION).manual("nfs-cachefs");
    page.render(&mut File::create(folder.join(format!("{name}.{SECTION}")))?)
}
