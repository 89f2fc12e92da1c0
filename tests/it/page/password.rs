use base64::{Engine as _, prelude::BASE64_STANDARD};
use nix::sys::signal::Signal;

use super::days_ago;
use crate::{
    browser::Browser,
    support::{Program, eventually, free_address, get},
};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_password_the_page_asks_for_it() {
    let Some(browser) = Browser::start().await else { return };
    let mut scene = days_ago(0).await;
    let file = scene.program.file("password", "open sesame\n");
    scene.program = scene
        .program
        .with("HTTP__PASSWORD_FILE", file.display().to_string())
        .with("HTTP__TOKEN", "t0ken-of-prometheus");
    let shown = scene.shown().await;
    let (code, text) = shown.body("/").await;
    assert!(code == 401 && text.contains("asks for the password") && !text.contains("Contoso"), "{text}");
    assert_eq!(shown.body("/livez").await.0, 200);
    shown.scene.run(&["healthcheck"]).await.expect_code(0);

    // The browser asks, and shows nothing until it has an answer.
    for refused in [shown.origin.clone(), format!("http://admin:wrong@{}/", shown.address)] {
        browser.open(&refused).await;
        assert_eq!((browser.count("h1").await, browser.title().await.as_str()), (0, ""), "{refused}");
    }
    browser.open(&format!("http://admin:open%20sesame@{}/", shown.address)).await;
    assert_eq!(browser.text("h1").await, "Contoso: up to date");
    // The browser remembers it, for links and for the icon as well.
    browser.follow("All").await;
    browser.until("the link is followed", "return location.search === '?days=all'").await;
    assert_eq!(browser.text("h1").await, "Contoso: up to date");

    // A new password counts at once.
    std::fs::write(&file, "simsalabim\n").expect("written");
    browser.open(&format!("{}/?page=1", shown.origin)).await;
    assert_eq!(browser.count("h1").await, 0);
    let basic = BASE64_STANDARD.encode("x:simsalabim");
    for authorization in [format!("Basic {basic}"), "Bearer t0ken-of-prometheus".to_owned()] {
        let path = format!("/metrics HTTP/1.1\r\nauthorization: {authorization}\r\nx-rest:");
        assert_eq!(get(shown.address, &path).await.map(|(code, _)| code), Some(200), "{authorization}");
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_to_all_without_a_password_is_warned() {
    let scene = days_ago(0).await;
    let address = format!("0.0.0.0:{}", free_address().port());
    let warned = async |program: Program| {
        let program = program.with("HTTP__LISTEN", &address);
        let service = program.spawn(&["run"]);
        eventually("it runs", async || service.log().contains("m365-ledger is running")).await;
        let log = service.log();
        service.signal(Signal::SIGTERM);
        assert_eq!(service.code().await, Some(0));
        log.contains("set http.password and http.token")
    };
    let program = || Program::for_one_tenant(&scene.sim).database(&scene.db.url);
    assert!(warned(program()).await);
    assert!(!warned(program().with("HTTP__PASSWORD", "open sesame")).await);
    let run = program().with("HTTP__TOKEN_FILE", "/nowhere/token").run(&["run"]).await.expect_code(78);
    run.expect_stderr(&["http.token", "/nowhere/token"]);
}
