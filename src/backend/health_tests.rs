use super::*;

const AWAY_AFTER: Duration = Duration::from_secs(1);

fn calls(now: Instant) -> Calls {
    Calls {
        running: BTreeMap::new(),
        next: 0,
        last_answer: None,
        gone: None,
        state: HealthState::Reachable,
        since: now,
        absent_before: Duration::ZERO,
        latency: Histogram::new(2).unwrap(),
    }
}

fn health(revalidate_timeout: Duration) -> Arc<Health> {
    let settings = HealthSettings {
        revalidate_timeout,
        backend_timeout: Duration::from_secs(10),
    };
    Health::new(settings, Arc::default())
}

fn prompt(started: Instant) -> Running {
    Running {
        started,
        kind: CallKind::Prompt,
    }
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[test]
fn away_means_one_call_overdue_and_none_answered_since_it_began() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut calls = calls(start);
    let hung = calls.begin(prompt(at(0)));
    assert_eq!(calls.judge(at(999), AWAY_AFTER), HealthState::Reachable);
    assert_eq!(calls.judge(at(1000), AWAY_AFTER), HealthState::Away);
    calls.answered(at(1100));
    assert_eq!(calls.judge(at(1100), AWAY_AFTER), HealthState::Slow);
    // The next silence counts from the first call after that answer.
    calls.begin(prompt(at(1500)));
    assert_eq!(calls.judge(at(2499), AWAY_AFTER), HealthState::Slow);
    assert_eq!(calls.judge(at(2500), AWAY_AFTER), HealthState::Away);
    calls.running.remove(&hung);
    calls.answered(at(2600));
    calls.running.clear();
    assert_eq!(calls.judge(at(9000), AWAY_AFTER), HealthState::Reachable);
}

#[test]
fn a_long_transfer_alone_is_slow_and_a_prompt_call_behind_it_decides() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut calls = calls(start);
    calls.begin(Running {
        started: at(0),
        kind: CallKind::Transfer,
    });
    assert_eq!(calls.judge(at(60_000), AWAY_AFTER), HealthState::Slow);
    calls.begin(prompt(at(60_000)));
    assert_eq!(calls.judge(at(61_000), AWAY_AFTER), HealthState::Away);
}

#[test]
fn a_slow_backend_is_not_away_however_long_the_work_takes() {
    let health = health(Duration::from_millis(100));
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(400) {
        let call = health.begin(CallKind::Prompt);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!health.is_away() || began.elapsed() > Duration::from_secs(2));
        call.end(None);
    }
}

#[test]
fn what_the_kernel_may_have_said_by_itself_is_no_answer() {
    let health = health(AWAY_AFTER);
    health
        .begin(CallKind::Prompt)
        .end(Some(&error(libc::EHOSTDOWN)));
    assert!(health.is_away());
    health.begin(CallKind::Cacheable).end(None);
    assert!(health.is_away());
    health
        .begin(CallKind::Cacheable)
        .end(Some(&error(libc::ENODATA)));
    assert!(health.is_away());
    health
        .begin(CallKind::Change)
        .end(Some(&error(libc::EACCES)));
    assert!(health.is_away());
    drop(health.begin(CallKind::Prompt));
    assert!(health.is_away());
    health
        .begin(CallKind::Prompt)
        .end(Some(&error(libc::ENOENT)));
    assert!(!health.is_away());
    health
        .begin(CallKind::Prompt)
        .end(Some(&error(libc::EHOSTDOWN)));
    health.begin(CallKind::Change).end(None);
    assert!(!health.is_away(), "what was done was done by the server");
}

#[test]
fn an_error_that_says_gone_is_away_until_the_next_answer() {
    let health = health(AWAY_AFTER);
    let failed = health.observe(CallKind::Prompt, || Err::<(), _>(error(libc::ETIMEDOUT)));
    assert!(failed.is_err());
    assert!(health.is_away(), "the failed call itself is no answer");
    assert!(health.reason().is_some());
    health.observe(CallKind::Prompt, || Ok(())).unwrap();
    assert_eq!(health.state(), HealthState::Reachable);
    assert_eq!(health.reason(), None);
    assert_eq!(health.latency().calls, 2);
}

#[test]
fn errors_of_a_file_say_nothing_about_the_server() {
    let health = health(AWAY_AFTER);
    for errno in [libc::ENOENT, libc::EACCES, libc::ESTALE, libc::EIO] {
        health.begin(CallKind::Prompt).end(Some(&error(errno)));
        assert_eq!(health.state(), HealthState::Reachable, "errno {errno}");
    }
}

#[test]
fn a_late_io_error_is_the_time_out_of_a_soft_mount() {
    let health = health(Duration::ZERO);
    let call = health.begin(CallKind::Prompt);
    assert!(health.away_at().is_some());
    std::thread::sleep(AWAY_AFTER_MIN + Duration::from_millis(20));
    assert!(health.is_away());
    call.end(Some(&error(libc::EIO)));
    assert!(health.is_away());
    assert_eq!(health.away_at(), None);
    health.begin(CallKind::Transfer).end(None);
    assert!(!health.is_away());
}

#[test]
fn patience_runs_out_backend_timeout_after_the_silence_began() {
    let settings = HealthSettings {
        revalidate_timeout: Duration::from_millis(100),
        backend_timeout: Duration::from_millis(300),
    };
    let health = Health::new(settings, Arc::default());
    let hung = health.begin(CallKind::Prompt);
    assert_eq!(health.patience_left(), None);
    assert!(health.wait_until_not_reachable(Duration::from_secs(5)));
    let left = health.patience_left().expect("it is away");
    assert!(left <= Duration::from_millis(200), "{left:?}");
    std::thread::sleep(left);
    let late = health.begin(CallKind::Prompt);
    assert_eq!(health.patience_left(), Some(Duration::ZERO));
    hung.end(None);
    assert_eq!(health.patience_left(), None);
    late.end(None);
}

#[test]
fn an_absence_lasts_over_restarts_and_ends_with_an_answer() {
    let health = health(AWAY_AFTER);
    assert_eq!(health.absent_for(), None);
    health.begin_away("not mounted".to_owned(), Duration::from_secs(100));
    assert_eq!(health.reason().as_deref(), Some("not mounted"));
    assert!(health.absent_for().unwrap() >= Duration::from_secs(100));
    health.observe(CallKind::Prompt, || Ok(())).unwrap();
    assert_eq!(health.absent_for(), None);
    let gone = error(libc::EHOSTDOWN);
    health.begin(CallKind::Prompt).end(Some(&gone));
    assert!(health.absent_for().unwrap() < Duration::from_secs(100));
}

#[test]
fn a_stuck_call_that_returns_ends_the_absence() {
    let health = health(Duration::from_millis(100));
    let call = health.begin(CallKind::Prompt);
    let began = Instant::now();
    assert!(health.wait_until_not_reachable(Duration::from_secs(5)));
    assert!(health.is_away());
    assert!(began.elapsed() >= Duration::from_millis(99));
    assert!(health.absent_for().unwrap() <= began.elapsed());
    call.end(None);
    assert_eq!(health.state(), HealthState::Reachable);
}
