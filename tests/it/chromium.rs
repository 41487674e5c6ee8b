//! The page of the control interface in Chromium. Run by `scripts/test --clients`, as all of `clients.rs`.

use std::fs;

use serde_json::json;

use caching_proxy::message::visible::{hides, visible_lines};
use caching_proxy::stats::figures;

use super::clients::is_there;
use super::support::TemporaryFolder;
use super::support::browser::{Browser, Look};
use super::support::origin::{Origin, Rule, Step, on};
use super::support::proxy::Proxy;
use super::support::seeded::Random;

const FRESH: &str = "Cache-Control: max-age=600";
const TOKEN: &str = "0123456789abcdef";
/// A name that leads to this machine, as one does whose owner rebinds it.
const FOREIGN: &str = "evil.test";
const HOSTILE: &str =
    "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>\u{202e}txt";

/// The control interface's own address, as the log says it.
fn admin_url(proxy: &Proxy) -> String {
    let log = proxy.log();
    let line = log.lines().find_map(|line| line.split_once("control interface at "));
    line.expect("a line").1.trim().to_string()
}

fn always(target: &str, fields: &str, content: &str) -> Rule {
    on(&format!("GET {target}")).send(200, &format!("{FRESH}; {fields}"), content).always()
}

/// Of all that has been asked for, what is not the control interface's.
fn outside(browser: &Browser, url: &str) -> Vec<String> {
    let is_own =
        |asked: &&String| asked.starts_with(url) || *asked == "data:," || *asked == "about:blank";
    browser.asked().iter().filter(|asked| !is_own(asked)).cloned().collect()
}

/// Clicks on the URL of a stored response, and waits until its content is shown.
fn open_stored(browser: &mut Browser, end: &str) {
    let row = format!(
        "[...document.querySelectorAll('#stored tbody button')].find(b => b.textContent.endsWith({end:?}))"
    );
    browser.wait_for(&format!("{row} !== undefined"));
    browser.value(&format!("{row}.click()"));
    browser.wait_for("document.querySelector('#head').textContent !== ''");
}

/// A target that is hostile itself.
const NAME: &str = "/%3Cscript%3Ealert(1)%3C/script%3E?q='onload=x()";

/// An origin server whose responses would do harm if they were more than text.
fn hostile_origin() -> Origin {
    let png = base64_png();
    let head = format!("{FRESH}; Content-Type: image/png; Content-Length: {}", png.len());
    let long = format!("X-Long: {}", "<b>".repeat(10_000));
    Origin::script([
        always("/products/1", "Content-Type: application/json", "{\"id\":1}"),
        always("/products/2", "Content-Type: application/json", "{\"id\":2}"),
        always("/hostile", "Content-Type: text/html", HOSTILE),
        always(
            "/drawing",
            "Content-Type: image/svg+xml",
            "<svg xmlns='x' onload='window.harmed = 3'/>",
        ),
        always("/long", &long, "long"),
        always("/mine", "Set-Cookie: a=b", "mine"),
        always(NAME, "Content-Type: text/plain", "name"),
        on("GET /picture").head(200, &head).then(Step::Send(png)).always(),
        // Ten megabytes of header: no valid response.
        on("GET /endless")
            .bytes("HTTP/1.1 200 OK\r\nX: ")
            .then(Step::Repeat(vec![b'<'; 1024], 10_240))
            .close(),
    ])
}

#[test]
fn figures_move_a_purge_works_and_what_is_hostile_stays_text() {
    if !is_there("chromium") {
        return;
    }
    let origin = hostile_origin();
    let proxy = Proxy::before(&origin, &["--admin", "127.0.0.1:0"]);
    let url = admin_url(&proxy);
    for target in
        ["/products/1", "/products/2", "/hostile", "/drawing", "/long", NAME, "/picture", "/mine"]
    {
        assert_eq!(proxy.get(target).status, 200, "{target}");
    }
    assert_eq!(proxy.get("/endless").status, 502);
    let mut browser = Browser::start(FOREIGN);
    browser.look(&Look { width: 1280, height: 1500, scheme: "light" });
    browser.go(&format!("{url}/"));
    browser.wait_for("document.querySelector('#stream').textContent.startsWith('Live')");
    let count =
        "Number(document.querySelector('[data-figure=requests][data-span=start] b').textContent)";
    let before = browser.value(count).as_u64().expect("a number");
    // Those before the page was opened are there, and those that come now come once.
    let rows = "document.querySelectorAll('#requests tbody tr').length";
    browser.wait_for(&format!("{rows} === {before}"));
    for (target, count) in [("/products/1", 12), ("/mine", 1)] {
        (0..count).for_each(|_| assert_eq!(proxy.get(target).status, 200));
    }
    browser.wait_for(&format!("{rows} === {}", before + 13));
    browser
        .wait_for("document.querySelector('#requests tbody tr').textContent.includes('GET /mine')");
    browser.wait_for(&format!("{count} > {before}"));
    browser.wait_for("document.querySelectorAll('[data-figure=requests] svg .line').length === 3");
    browser.wait_for("document.querySelector('[data-detail=set-cookie]').checkVisibility()");
    browser.wait_for("document.querySelectorAll('#stored tbody tr').length === 7");
    look_at_what_is_hostile(&mut browser);
    purge_and_refresh(&mut browser, &proxy);
    assert!(browser.value("window.harmed").is_null());
    assert_eq!(
        browser.value("document.querySelectorAll('main script, dialog script, main img').length"),
        0
    );
    assert_eq!(outside(&browser, &url), Vec::<String>::new());
    assert_eq!(browser.complaints(), Vec::<String>::new());
    take_screenshots(&mut browser, &proxy);
}

/// Opens what would do harm.
fn look_at_what_is_hostile(browser: &mut Browser) {
    for (end, expected) in [
        ("/hostile", "<script>window.harmed"),
        ("/drawing", "<svg"),
        ("/long", "long"),
        ("onload=x()", "name"),
    ] {
        open_stored(browser, end);
        browser.wait_for(&format!(
            "document.querySelector('#content').textContent.startsWith({expected:?})"
        ));
    }
    open_stored(browser, "/hostile");
    browser.wait_for(
        "document.querySelector('#content').textContent.endsWith('\\u27e8U+202E\\u27e9txt')",
    );
    open_stored(browser, "/picture");
    browser.wait_for("document.querySelector('#picture img').naturalWidth === 1");
}

/// Purges one and what matches, and has one fetched anew.
fn purge_and_refresh(browser: &mut Browser, proxy: &Proxy) {
    open_stored(browser, "/products/2");
    browser.value("document.querySelector('#purge-one').click()");
    browser.wait_for("document.querySelector('#shown-said').textContent === '1 purged'");
    assert!(!proxy.get("/products/2").is_hit());
    browser.value("document.querySelector('#close').click()");
    browser.value(
        "{ const f = document.querySelector('#purge'); f.elements.what.value = 'match'; \
         f.elements.value.value = '*/products/*'; f.requestSubmit(); }",
    );
    browser.wait_for("document.querySelector('#said').textContent === '2 purged'");
    assert!(!proxy.get("/products/1").is_hit());
    open_stored(browser, "/hostile");
    browser.value("document.querySelector('#refresh').click()");
    browser.wait_for(
        "document.querySelector('#shown-said').textContent.startsWith('200: proxy; fwd=')",
    );
}

/// Light and dark, wide and narrow. On a narrow screen tables scroll, and the page does not.
fn take_screenshots(browser: &mut Browser, proxy: &Proxy) {
    for scheme in ["light", "dark"] {
        for (width, height) in [(1280, 2000), (360, 3000)] {
            browser.look(&Look { width, height, scheme });
            browser.value("document.querySelector('#close').click()");
            proxy.get("/hostile");
            assert_eq!(
                browser.value(
                    "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
                ),
                true,
                "{width}"
            );
            let path = browser.screenshot(&format!("page-{scheme}-{width}.png"));
            println!("{}", path.display());
            open_stored(browser, "/hostile");
            browser.screenshot(&format!("page-{scheme}-{width}-shown.png"));
        }
    }
}

/// A picture of one dot.
fn base64_png() -> Vec<u8> {
    use base64::Engine as _;
    let text = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

/// The script writes figures as the page without script, and `proxy top`, do; and makes the same characters visible.
#[test]
fn the_script_writes_figures_and_texts_as_the_program_does() {
    if !is_there("chromium") {
        return;
    }
    let proxy = Proxy::before(&Origin::script([]), &["--admin", "127.0.0.1:0"]);
    let mut browser = Browser::start(FOREIGN);
    browser.go(&format!("{}/", admin_url(&proxy)));
    browser.wait_for("document.querySelector('#stream').textContent.startsWith('Live')");
    let mut random = Random::new(1024);
    let mut numbers: Vec<u64> = (0..50).map(|power| 1 << power).collect();
    numbers.extend((0..16).map(|power| 10_u64.pow(power)));
    numbers.extend((0..400).map(|_| random.next() >> (11 + random.below(53))));
    numbers
        .extend(numbers.clone().iter().flat_map(|number| [number.saturating_sub(1), number + 1]));
    let wholes: Vec<u64> =
        numbers.iter().map(|_| random.next() >> (24 + random.below(40))).collect();
    let parts: Vec<u64> =
        wholes.iter().map(|whole| random.below(*whole as usize + 1) as u64).collect();
    let shown = browser.value(&format!(
        "[{numbers:?}.map(count), {numbers:?}.map(bytes), {numbers:?}.map(span), {numbers:?}.map(time), \
         {parts:?}.map((part, at) => percent(part, {wholes:?}[at])), [time(null), percent(0, 0)]]"
    ));
    let all =
        |say: fn(u64) -> String| numbers.iter().map(|number| say(*number)).collect::<Vec<_>>();
    let shares = parts.iter().zip(&wholes).map(|(part, whole)| figures::percent(*part, *whole));
    let expected = json!([
        all(figures::number),
        all(figures::size),
        all(figures::span),
        all(|micros| figures::time(Some(micros))),
        shares.collect::<Vec<_>>(),
        [figures::time(None), figures::percent(0, 0)],
    ]);
    for (shown, expected) in
        shown.as_array().expect("lists").iter().zip(expected.as_array().expect("lists"))
    {
        assert_eq!(shown, expected);
    }
    // Each character that there is, and the ends of lines.
    let letters = (0..0x11_0000).filter_map(char::from_u32).filter(|c| hides(*c) || c.is_ascii());
    let letters: Vec<char> = letters.chain("a\r\nb\rc".chars()).collect();
    // The page shows the beginning of what is long.
    for piece in letters.chunks(1000) {
        let hidden: String = piece.iter().collect();
        let shown = browser.value(&format!("visible({})", json!(hidden)));
        assert_eq!(shown, json!(visible_lines(&hidden)));
    }
    let seen = "(() => { const all = []; for (let c = 0; c < 0x110000; c += 1) if ((c < 0xd800 || c > 0xdfff) \
                && visible(String.fromCodePoint(c)).length > 2) all.push(c); return all; })()";
    let expected: Vec<u32> = (0..0x11_0000)
        .filter_map(char::from_u32)
        .filter(|c| hides(*c) && !matches!(c, '\n' | '\t'))
        .map(u32::from)
        .collect();
    assert_eq!(browser.value(seen), json!(expected));
}

#[test]
fn an_open_page_follows_the_origin_server_and_the_proxy_and_is_light_or_dark() {
    if !is_there("chromium") {
        return;
    }
    let mut proxy = Proxy::start(&["--origin", "http://127.0.0.1:1", "--admin", "127.0.0.1:0"]);
    let mut browser = Browser::start(FOREIGN);
    browser.go(&format!("{}/", admin_url(&proxy)));
    browser.wait_for("document.querySelector('#stream').textContent.startsWith('Live')");
    browser.wait_for("document.querySelector('#origin').textContent.startsWith('answers')");
    assert_eq!(proxy.get("/a").status, 502);
    browser.wait_for("document.querySelector('#origin.bad').textContent.includes('no connection')");
    browser.wait_for("document.querySelector('[data-detail=connect]').checkVisibility()");
    let [light, dark] = ["light", "dark"].map(|scheme| {
        browser.look(&Look { width: 1280, height: 1000, scheme });
        let colours = "(() => { const { backgroundColor, color } = getComputedStyle(document.body); \
                       return [backgroundColor, color].map(c => Math.max(...c.match(/\\d+/g))); })()";
        let [back, text] = [0, 1].map(|at| browser.value(colours)[at].as_u64().expect("a number"));
        (back, text)
    });
    assert!(light.0 > 200 && light.1 < 100 && dark.0 < 100 && dark.1 > 200, "{light:?} {dark:?}");
    proxy.stop();
    browser.wait_for(
        "document.querySelector('#stream').textContent.includes('no connection to the proxy')",
    );
}

#[test]
fn another_site_cannot_purge_by_whatever_name() {
    if !is_there("chromium") {
        return;
    }
    let origin = Origin::script([
        always("/a", "Content-Type: text/plain", "kept"),
        always("/evil", "Content-Type: text/html", "<!DOCTYPE html><title>evil</title><body>evil"),
        on("GET /favicon.ico").send(404, FRESH, "").always(),
    ]);
    let proxy = Proxy::before(&origin, &["--admin", "127.0.0.1:0"]);
    let url = admin_url(&proxy);
    proxy.get("/a");
    let mut browser = Browser::start(FOREIGN);
    // One is another site, the other one a page on this very machine: another port is another origin.
    let port = proxy.address.port();
    for site in [format!("http://{FOREIGN}:{port}/evil"), format!("http://127.0.0.1:{port}/evil")] {
        browser.go(&site);
        browser.wait_for("document.title === 'evil'");
        for mode in ["no-cors", "cors"] {
            let purge = format!(
                "fetch('{url}/purge?all=1', {{ method: 'POST', mode: '{mode}' }}).then(a => a.status, () => -1)"
            );
            let status = browser.value(&purge);
            assert!(status == 0 || status == -1, "{site}: {status}");
            let read =
                format!("fetch('{url}/list', {{ mode: '{mode}' }}).then(a => a.text(), () => '')");
            assert_eq!(browser.value(&read), "", "{site}");
        }
        browser.value(&format!(
            "{{ const f = document.createElement('form'); f.method = 'post'; \
             f.action = '{url}/purge?all=1'; document.body.append(f); f.submit(); }}"
        ));
        browser.wait_for("document.body.innerText.includes('Origin is another site')");
        assert!(proxy.get("/a").is_hit(), "{site}");
    }
    // The name that is rebound to the control interface itself.
    let (_, admin_port) = url.rsplit_once(':').expect("a port");
    browser.go(&format!("http://{FOREIGN}:{admin_port}/"));
    browser.wait_for("document.body.innerText.includes('for this machine alone')");
    assert!(proxy.get("/a").is_hit());
}

#[test]
fn the_token_is_asked_for_and_goes_nowhere_else() {
    if !is_there("chromium") {
        return;
    }
    let folder = TemporaryFolder::new();
    fs::write(folder.file("token"), TOKEN).expect("a file");
    let origin = Origin::script([
        always("/a", "Content-Type: text/html", "<!DOCTYPE html><title>a</title>"),
        on("GET /favicon.ico").send(404, FRESH, "").always(),
    ]);
    let token = folder.file("token").display().to_string();
    let proxy = Proxy::before(&origin, &["--admin", "127.0.0.1:0", "--admin-token", &token]);
    let url = admin_url(&proxy);
    let mut browser = Browser::start(FOREIGN);
    browser.look(&Look { width: 360, height: 640, scheme: "light" });
    browser.go(&format!("{url}/"));
    let log_in = |browser: &mut Browser, token: &str| {
        browser.wait_for("document.querySelector('input[name=token]')");
        browser.value(&format!("document.querySelector('input[name=token]').value = '{token}'"));
        browser.value("document.querySelector('form button').click()");
    };
    browser.wait_for("document.querySelector('input[name=token]')");
    browser.screenshot("page-login.png");
    log_in(&mut browser, "0123456789abcdeF");
    browser.wait_for("document.body.innerText.includes('is not the token')");
    log_in(&mut browser, TOKEN);
    browser.wait_for("document.querySelector('#stream').textContent.startsWith('Live')");
    assert_eq!(browser.value("document.cookie"), "", "no script reads the session");
    assert_eq!(browser.value("location.pathname"), "/control-page/");
    proxy.get("/a");
    browser.value("document.querySelector('#reload').click()");
    browser.wait_for("document.querySelectorAll('#stored tbody tr').length === 1");
    open_stored(&mut browser, "/a");
    browser.value("document.querySelector('#purge-one').click()");
    browser.wait_for("document.querySelector('#shown-said').textContent === '1 purged'");
    assert_eq!(outside(&browser, &url), Vec::<String>::new());
    // Clients' requests go to another port of the same host.
    browser.go(&format!("http://{}/a", proxy.address));
    browser.wait_for("document.title === 'a'");
    let asked = origin.asked();
    assert!(asked.iter().all(|asked| !asked.head.text.contains("proxy-session")), "{asked:?}");
    browser.go(&format!("{url}/"));
    browser.wait_for("document.querySelector('#stream').textContent.startsWith('Live')");
    browser.value("document.querySelector('#logout').click()");
    browser.wait_for("document.querySelector('input[name=token]')");
}

/// Sorts, opens, refreshes and purges. Whatever is made anew meanwhile, the keyboard is where it was.
fn use_by_keyboard(browser: &mut Browser) {
    const OF_ROW: &str = "document.activeElement.closest('#stored tbody') !== null";
    browser.value("document.querySelector('#stored thead button').focus()");
    browser.press("Enter", 13);
    browser.wait_for("document.querySelector('#stored th[aria-sort=descending]')");
    browser.wait_for("document.querySelector('#stored tbody tr').textContent.includes('/b')");
    browser.wait_for("document.activeElement.textContent === 'URL \u{2193}'");
    browser.value("document.querySelector('#stored tbody button').focus()");
    browser.press("Enter", 13);
    browser.wait_for("document.querySelector('#content').textContent === 'bb'");
    browser.wait_for("document.activeElement.id === 'refresh'");
    browser.press("Enter", 13);
    browser.wait_for("document.querySelector('#shown-said').textContent.startsWith('200')");
    browser.press("Escape", 27);
    browser.wait_for("!document.querySelector('#shown').open");
    browser.wait_for(&format!("{OF_ROW} && document.activeElement.textContent.endsWith('/b')"));
    browser.press("Enter", 13);
    browser.wait_for("document.querySelector('#content').textContent === 'bb'");
    browser.press("Tab", 9);
    browser.wait_for("document.activeElement.id === 'purge-one'");
    browser.press("Enter", 13);
    browser.wait_for("document.querySelector('#shown-said').textContent === '1 purged'");
    browser.press("Escape", 27);
    browser.wait_for("document.activeElement.name === 'search'");
}

/// An answer that comes late, of what was clicked before, is not taken for that of what was clicked last.
fn show_what_was_clicked_last(browser: &mut Browser) {
    browser.value("document.querySelector('#reload').click()");
    browser.wait_for("document.querySelectorAll('#stored tbody tr').length === 2");
    browser.value(
        "{ const inTime = ask, late = new Promise((come) => { window.come = come; }); let isFirst = true; \
         ask = async (...given) => { const isLate = isFirst && given[0] === 'show', answer = await inTime(...given); \
         if (isLate) await late; return answer; }; \
         ask('table', table).then((answer) => answer.json()).then(({ rows: [one, other] }) => { \
         window.shown = show(one); isFirst = false; window.shown = Promise.all([window.shown, show(other)]); }); }",
    );
    browser.wait_for("document.querySelector('#content').textContent === 'a'");
    browser.value("window.come(); window.shown");
    let shown = browser.value("document.querySelector('#shown-title').textContent");
    assert!(shown.as_str().is_some_and(|shown| shown.ends_with("/a")), "{shown}");
    assert_eq!(browser.value("document.querySelector('#content').textContent"), "a");
    browser.press("Escape", 27);
    browser.wait_for("!document.querySelector('#shown').open");
}

/// Of three requests, those that have been shown are not shown again, unless another process counts anew.
fn show_requests_once(browser: &mut Browser) {
    let rows = "document.querySelectorAll('#requests tbody tr').length";
    browser.value("loadRequests()");
    assert_eq!(browser.value(&format!("[{rows}, next]")), json!([3, 3]));
    browser.value("{ next = 1000; loadRequests(); }");
    browser.wait_for(&format!("{rows} === 6 && next === 3"));
}

#[test]
fn without_script_there_are_figures_and_without_a_mouse_there_is_a_way() {
    if !is_there("chromium") {
        return;
    }
    let origin = Origin::script([
        always("/a", "Content-Type: text/plain", "a"),
        always("/b", "Content-Type: text/plain", "bb"),
    ]);
    let proxy = Proxy::before(&origin, &["--admin", "127.0.0.1:0"]);
    let url = admin_url(&proxy);
    for target in ["/a", "/b", "/b"] {
        proxy.get(target);
    }
    let mut browser = Browser::start(FOREIGN);
    browser.look(&Look { width: 1280, height: 1000, scheme: "light" });
    browser.call("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    browser.go(&format!("{url}/"));
    let figure = |name: &str| {
        format!("document.querySelector('[data-figure={name}][data-span=hour] b').textContent")
    };
    browser.wait_for(&format!(
        "{} === '3' && {} === '33.3 %'",
        figure("requests"),
        figure("ratio")
    ));
    browser.wait_for("document.querySelectorAll('#requests tbody tr, noscript a').length === 4");
    browser.screenshot("page-without-script.png");

    browser.call("Emulation.setScriptExecutionDisabled", &json!({ "value": false }));
    browser.go(&format!("{url}/"));
    browser.wait_for("document.querySelectorAll('#stored tbody tr').length === 2");
    browser.wait_for("document.querySelectorAll('[data-figure=requests] svg .line').length === 3");
    show_requests_once(&mut browser);
    browser.press("Tab", 9);
    browser.wait_for("document.activeElement.className === 'skip'");
    use_by_keyboard(&mut browser);
    proxy.get("/b");
    show_what_was_clicked_last(&mut browser);

    // Whatever can be used, and each plot, has a name for those who hear it.
    let tree = browser.call("Accessibility.getFullAXTree", &json!({}));
    let mut named = 0;
    for node in
        tree["nodes"].as_array().expect("a tree").iter().filter(|node| node["ignored"] == false)
    {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["image", "button", "textbox", "searchbox", "combobox", "link", "region"].contains(&role)
        {
            assert!(node["name"]["value"].as_str().is_some_and(|name| !name.is_empty()), "{node}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}: {tree}");
}
