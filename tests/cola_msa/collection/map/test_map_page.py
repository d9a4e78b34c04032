"""The map's page in headless Chromium, opened from the disk."""

import contextlib
import http.server
import json
import pathlib
import threading
import time
import urllib.parse

import numpy as np
import pytest
import soundfile

from cola_msa.collection.map import write as write_lib
from cola_msa.collection.search import build as build_lib
from cola_msa.collection.search import index as index_lib
from cola_msa.collection.search import query as query_lib
from tests.helpers import browser, embedding_tables
from tests.helpers.map_pages import read_page

NUM_TRACKS = 60
# What was drawn, on a canvas that may be read.
_COPY = """
        const canvas = document.getElementById('points');
        const box = canvas.getBoundingClientRect();
        const copy = document.createElement('canvas');
        copy.width = canvas.width;
        copy.height = canvas.height;
        const context = copy.getContext('2d', { willReadFrequently: true });
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page, its embeddings, and files to play; track 3 is no audio."""
    root = tmp_path_factory.mktemp("page")
    columns = embedding_tables.sample_columns(NUM_TRACKS)
    columns["path"] = [str(root / path) for path in columns["path"]]
    for number in (0, 1, 2):
        path = pathlib.Path(columns["path"][number])
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
        soundfile.write(path, tone, 16000, format="OGG")
    pathlib.Path(columns["path"][3]).write_bytes(b"no audio")
    embeddings = embedding_tables.write(root / "e.npz", columns)
    (root / "labels.csv").write_text(
        "path,Mood\n"
        + "".join(
            f"{p},{'cám' if n % 3 else 'loud'}\n" for n, p in enumerate(columns["path"])
        )
    )
    data = write_lib.write_map(
        embeddings, root / "map.html", labels=root / "labels.csv", title="Music"
    )
    return root, data


@pytest.fixture(scope="module")
def driver(folder, tmp_path_factory):
    with browser.open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(driver, folder):
    """The page, opened anew; afterwards: no error, and nothing but its files read."""
    root, _ = folder
    driver.get((root / "map.html").as_uri())
    yield driver
    errors = browser.console_errors(driver)
    assert [e for e in errors if "ERR_FILE_NOT_FOUND" not in e] == []
    outside = [
        url
        for url in browser.requested_urls(driver)
        if not url.startswith(root.as_uri())
    ]
    assert outside == []


def state(driver) -> dict:
    return driver.execute_script("return colaMap.state()")


def at(driver, track: int) -> tuple[float, float]:
    return driver.execute_script(f"return colaMap.positionOf({track})")


def mouse(driver, kind: str, x: float, y: float, **more) -> None:
    event = {"type": kind, "x": x, "y": y, **more}
    driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)


def click(driver, x: float, y: float) -> None:
    mouse(driver, "mouseMoved", x, y)
    for kind in ("mousePressed", "mouseReleased"):
        mouse(driver, kind, x, y, button="left", clickCount=1)


def press(driver, key: str, code: str | None = None, **more) -> None:
    for kind in ("keyDown", "keyUp"):
        event = {"type": kind, "key": key, "code": code or key, **more}
        if len(key) == 1 and kind == "keyDown":
            event["text"] = key
        driver.execute_cdp_cmd("Input.dispatchKeyEvent", event)


def wait_for(driver, script: str):
    """Waits until a script returns something that is true."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if value := driver.execute_script(f"return {script}"):
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within 60 s: {script}")


def free_of(driver, count: int) -> int:
    """The one of so many tracks that has nothing else close to it."""
    places = np.array([at(driver, n) for n in range(count)])
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return int(distance.min(axis=1).argmax())


def test_every_point_is_drawn_in_its_groups_colour(page, folder):
    _, data = folder
    wanted, pixels = page.execute_script(
        _COPY
        + """
        const style = getComputedStyle(document.documentElement);
        const wanted = [0, 1].map(n => style.getPropertyValue('--c' + n).trim());
        const read = (_, n) => {
          const [x, y] = colaMap.positionOf(n);
          const left = x - box.left, top = y - box.top;
          return Array.from(context.getImageData(left, top, 1, 1).data);
        };
        const all = () => {
          context.drawImage(canvas, 0, 0);
          return [wanted, Array.from({length: colaMap.numTracks}, read)];
        };
        const frame = requestAnimationFrame;
        return new Promise(done => frame(() => frame(() => done(all()))));
        """
    )
    assert all(pixel[3] > 200 for pixel in pixels)  # something at each track
    colours = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in wanted]
    of = data.schemes[0].of
    places = np.array([at(page, n) for n in range(NUM_TRACKS)])
    num_checked = 0
    for n, pixel in enumerate(pixels):
        above = np.linalg.norm(places[n + 1 :] - places[n], axis=1)
        if len(above) and above.min() < 18:
            continue  # a later point may cover it
        num_checked += 1
        # Points are a little transparent.
        off = max(abs(a - b) for a, b in zip(pixel[:3], colours[of[n]], strict=True))
        assert off < 24, n
    assert num_checked >= 15


def test_what_tag_wrote_is_shown_by_opacity(driver, tmp_path):
    columns = embedding_tables.sample_columns(2)
    embeddings = embedding_tables.write(tmp_path / "e.npz", columns)
    sure, unsure = columns["path"]
    table = f"path,tags,piano\n{sure},piano,0.98\n{unsure},,0.4\n"
    (tmp_path / "tags.csv").write_text(table)
    write_lib.write_map(embeddings, tmp_path / "map.html", labels=tmp_path / "tags.csv")
    driver.get((tmp_path / "map.html").as_uri())
    alphas, tags = driver.execute_script(
        _COPY
        + """
        const choose = document.getElementById('scheme');
        choose.value = '1';
        choose.dispatchEvent(new Event('change'));
        const style = getComputedStyle(document.documentElement);
        const red = name =>
          parseInt(style.getPropertyValue(name).trim().slice(1, 3), 16);
        // A point's colour lies between the page's and its group's.
        const alpha = n => {
          const [x, y] = colaMap.positionOf(n);
          const left = Math.round(x - box.left), top = Math.round(y - box.top);
          const [found] = context.getImageData(left, top, 1, 1).data;
          const page = red('--page'), group = red(n ? '--other' : '--c0');
          return (found - page) / (group - page);
        };
        const list = n => {
          colaMap.select(n, { play: false });
          return Array.from(document.querySelectorAll('#tags li'), i => i.textContent);
        };
        const frame = requestAnimationFrame;
        return new Promise(done => frame(() => frame(() => {
          context.drawImage(canvas, 0, 0);
          const alphas = [0, 1].map(alpha);
          choose.value = '0';
          choose.dispatchEvent(new Event('change'));
          done([alphas, [0, 1].map(list)]);
        })));
        """
    )
    assert alphas[0] == pytest.approx(0.92 * 0.98, abs=0.02)
    assert alphas[1] == pytest.approx(0.92 * 0.4, abs=0.02)
    assert [tag for tag in tags[0] if "%" in tag] == ["piano, 98 %"]
    assert [tag for tag in tags[1] if "%" in tag] == ["no label, 40 %"]
    assert browser.console_errors(driver) == []
    assert len(browser.requested_urls(driver)) == 1


def test_hover_shows_the_name(page, folder):
    _, data = folder
    track = free_of(page, NUM_TRACKS)
    mouse(page, "mouseMoved", *at(page, track))
    wait_for(page, f"colaMap.state().hovered === {track}")
    tip = page.find_element("id", "tip")
    assert tip.is_displayed() and data.names[track] in tip.text
    mouse(page, "mouseMoved", 5, 5)
    wait_for(page, "document.getElementById('tip').hidden")


def test_a_click_plays_and_lists_the_neighbours_of_search(page, folder, tmp_path):
    root, data = folder
    track = free_of(page, NUM_TRACKS)
    click(page, *at(page, track))
    wait_for(page, f"colaMap.state().selected === {track}")
    assert page.find_element("id", "track").text == data.names[track]
    shown = [
        (
            button.get_attribute("title"),
            button.find_element("class name", "score").text,
        )
        for button in page.find_elements("css selector", "#near button")
    ]
    build_lib.build(str(root / "e.npz"), str(tmp_path / "index.npz"), "cosine")
    index = index_lib.load_index(tmp_path / "index.npz")
    (answer,) = query_lib.query(index, [data.paths[track]], 10)
    assert shown == [(r["path"], f"{r['score']:.4f}") for r in answer["results"]]


def test_playing_and_what_cannot_be_played(page):
    page.execute_script("colaMap.select(1)")
    wait_for(page, "document.getElementById('audio').currentTime > 0")
    assert page.find_element("id", "problem").is_displayed() is False
    for track in (3, 8):  # no audio; no such file
        page.execute_script(f"colaMap.select({track})")
        wait_for(page, "!document.getElementById('problem').hidden")
        assert "cannot play" in page.find_element("id", "problem").text
        assert page.find_element("id", "link").get_attribute("href").endswith(".ogg")


def test_a_neighbour_leads_on(page, folder):
    _, data = folder
    page.execute_script("colaMap.select(0)")
    first = data.neighbours[0, 0]
    page.find_elements("css selector", "#near button")[0].click()
    assert state(page)["selected"] == first


def test_search_finds_dims_and_opens(page, folder):
    _, data = folder
    press(page, "/", "Slash")
    field = page.find_element("id", "search")
    assert page.switch_to.active_element == field
    field.send_keys("album1 TRACK 1")
    words = ("album1", "track", "1")
    wanted = [n for n, p in enumerate(data.paths) if all(w in p for w in words)]
    assert state(page)["matches"] == len(wanted)
    options = page.find_elements("css selector", "#found [role=option]")
    assert [int(o.get_attribute("data-track")) for o in options] == wanted
    press(page, "ArrowDown")
    press(page, "ArrowDown")
    active = field.get_attribute("aria-activedescendant")
    assert active == options[1].get_attribute("id")
    press(page, "Enter", windowsVirtualKeyCode=13)
    assert state(page)["selected"] == wanted[1]
    field.clear()
    field.send_keys("cam")  # accents do not matter
    assert state(page)["matches"] == sum(n % 3 > 0 for n in range(NUM_TRACKS))
    field.clear()
    field.send_keys("nothing like it")
    wait_for(
        page, "document.getElementById('found').innerText.includes('No track found')"
    )
    press(page, "Escape", windowsVirtualKeyCode=27)
    assert state(page)["matches"] is None


def test_the_keyboard_alone_reaches_everything(page):
    page.execute_script("document.getElementById('marks').focus()")
    press(page, "ArrowRight")
    first = state(page)["current"]
    x, y = at(page, first)
    press(page, "ArrowRight")
    second = state(page)["current"]
    assert second != first and at(page, second)[0] > x
    said = page.find_element("id", "said").get_attribute("textContent")
    assert said
    press(page, "Enter", windowsVirtualKeyCode=13)
    assert state(page)["selected"] == second
    page.execute_script("document.getElementById('marks').focus()")
    press(page, "+", "Equal")
    assert state(page)["zoom"] == pytest.approx(1.5)
    press(page, "0", "Digit0")
    assert state(page)["zoom"] == pytest.approx(1)
    press(page, "Escape", windowsVirtualKeyCode=27)
    assert state(page)["selected"] == -1
    reached = set()
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(16):
        press(page, "Tab", windowsVirtualKeyCode=9)
        outline, name = page.execute_script(
            "const e = document.activeElement;"
            "return [getComputedStyle(e).outlineStyle, e.id || e.tagName]"
        )
        reached.add(name)
        assert name == "BODY" or outline != "none", name
    ids = {"search", "scheme", "theme", "help-open", "marks", "zoom-in", "reset"}
    assert ids <= reached


def test_the_legend_hides_and_shows_groups(page, folder):
    _, data = folder
    buttons = page.find_elements("css selector", "#groups button")
    scheme = data.schemes[0]
    assert [b.find_element("class name", "name").text for b in buttons] == list(
        scheme.groups
    )
    counts = [int(b.find_element("class name", "count").text) for b in buttons]
    assert counts == [scheme.of.count(g) for g in range(len(counts))]
    buttons[0].click()
    assert state(page)["hiddenGroups"] == [0]
    assert buttons[0].get_attribute("aria-pressed") == "false"
    page.find_element("id", "show-all").click()
    assert state(page)["hiddenGroups"] == []


def test_wheel_zooms_at_the_pointer_and_drag_moves(page):
    x, y = at(page, 5)
    mouse(page, "mouseWheel", x, y, deltaX=0, deltaY=-120)
    wait_for(page, "colaMap.state().zoom > 1.2")
    assert at(page, 5) == pytest.approx([x, y], abs=0.5)
    mouse(page, "mousePressed", 400, 400, button="left", clickCount=1)
    mouse(page, "mouseMoved", 430, 420, button="left", buttons=1)
    mouse(page, "mouseMoved", 460, 440, button="left", buttons=1)
    mouse(page, "mouseReleased", 460, 440, button="left", clickCount=1)
    assert at(page, 5) == pytest.approx([x + 60, y + 40], abs=1)


def test_themes(page):
    def background() -> str:
        return page.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )

    light = background()
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    wait_for(page, "document.documentElement.dataset.theme === 'dark'")
    dark = background()
    assert dark != light
    page.find_element("id", "theme").click()  # auto -> light, whatever the system
    assert background() == light
    page.find_element("id", "theme").click()
    assert background() == dark
    page.find_element("id", "theme").click()
    scheme["value"] = "light"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    wait_for(page, "document.documentElement.dataset.theme === 'light'")


def test_a_phone_taps_and_pinches(folder, tmp_path):
    root, data = folder
    with browser.open_browser(tmp_path / "p", (390, 844), phone=True) as phone:
        phone.get((root / "map.html").as_uri())
        width = "document.documentElement.scrollWidth"
        assert phone.execute_script(f"return {width} <= window.innerWidth")

        def touch(kind: str, *points: tuple[float, float]) -> None:
            touches = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]
            event = {"type": kind, "touchPoints": touches}
            phone.execute_cdp_cmd("Input.dispatchTouchEvent", event)

        touch("touchStart", (150, 400), (250, 400))
        touch("touchMove", (100, 400), (300, 400))
        touch("touchEnd")
        assert state(phone)["zoom"] == pytest.approx(2, rel=0.05)
        phone.find_element("id", "reset").click()
        track = free_of(phone, NUM_TRACKS)
        touch("touchStart", tuple(at(phone, track)))
        touch("touchEnd")
        wait_for(phone, f"colaMap.state().selected === {track}")
        panel = phone.find_element("id", "panel").rect
        assert panel["width"] == 390 and panel["y"] > 400
        assert browser.console_errors(phone) == []


def at_rest(driver):
    """Waits until everything is drawn."""
    wait_for(driver, "colaMap.timings.draws && colaMap.isAtRest()")


def test_the_page_unpacks_what_was_packed(driver, tmp_path):
    names = ["a/b c/1#2?.ogg", "a/.hidden", "a/x.y.mp3", "a/no suffix", "e.", "f"]
    names += ["a/it's (1)*!~.ogg", "s3://bucket/a/1.ogg", "\u00e9\u4e2d/\U0001f600.ogg"]
    names += ["a/b c/\\udcff.ogg", "c/../d.ogg", "/abs/\u2028.ogg", "b//2.ogg"]
    columns = embedding_tables.sample_columns(len(names))
    columns["path"] = names
    embeddings = embedding_tables.write(tmp_path / "e.npz", columns)
    (tmp_path / "l.csv").write_text('path,name\n.hidden,"own </script> name"\n')
    options = {"labels": tmp_path / "l.csv", "projection": "pca"}
    data = write_lib.write_map(embeddings, tmp_path / "map.html", **options)
    assert read_page(tmp_path / "map.html")["paths"] == names
    driver.get((tmp_path / "map.html").as_uri())
    found = driver.execute_script(
        "return Array.from({ length: colaMap.numTracks }, (_, n) => colaMap.track(n))"
    )
    assert [track["path"] for track in found] == names
    assert [track["name"] for track in found] == list(data.names)
    assert [track["href"] for track in found] == list(data.hrefs)
    assert data.names[:4] == ("1#2?", "own </script> name", "x.y", "no suffix")
    for n, track in enumerate(found):
        near = [each["track"] for each in track["near"]]
        assert near == data.neighbours[n].tolist()
        scores = [each["score"] for each in track["near"]]
        assert scores == pytest.approx(data.scores[n], abs=5.1e-5)
    assert browser.console_errors(driver) == []
    assert len(browser.requested_urls(driver)) == 1


def test_points_are_there_again_once_the_map_has_moved(page):
    """The picture is moved at once, and drawn anew where the map went."""
    read = (
        _COPY
        + """
        context.drawImage(canvas, 0, 0);
        const [x, y] = colaMap.positionOf(arguments[0]);
        const page = getComputedStyle(document.body).backgroundColor.match(/\\d+/g);
        const pixel = context.getImageData(x - box.left, y - box.top, 1, 1).data;
        return page.map((v, n) => Math.abs(v - pixel[n])).reduce((a, b) => a + b);
        """
    )
    track = free_of(page, NUM_TRACKS)
    at_rest(page)
    draws = page.execute_script("return colaMap.timings.draws")
    page.execute_script("colaMap.moveBy(30, 20)")
    at_rest(page)
    # What is seen was drawn already.
    assert page.execute_script("return colaMap.timings.draws") == draws
    assert page.execute_script(read, track) > 60
    for script in (
        "colaMap.moveBy(-500, 300)",
        "document.getElementById('zoom-in').click()",
        "document.getElementById('zoom-out').click()",
    ):
        page.execute_script(script)
        at_rest(page)
        draws += 1
        assert page.execute_script("return colaMap.timings.draws") == draws
        assert page.execute_script(read, track) > 60


def test_it_begins_with_a_way_to_colour_that_colours(driver, tmp_path):
    columns = embedding_tables.sample_columns(40)
    columns["path"] = [f"music/{n}/song.ogg" for n in range(40)]
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    write_lib.write_map(path, tmp_path / "map.html", projection="pca")
    driver.get((tmp_path / "map.html").as_uri())
    title = driver.find_element("id", "legend-title")
    assert title.text == "Cluster"  # of 40 folders eleven would have a colour
    chosen = driver.find_element("id", "scheme").get_attribute("value")
    assert chosen == "1"
    driver.find_element("id", "legend-title").click()
    driver.execute_script(
        "const e = document.getElementById('scheme'); e.value = '0';"
        "e.dispatchEvent(new Event('change'))"
    )
    count = "return document.querySelectorAll('#groups button').length"
    assert driver.execute_script(count) == 0  # a closed legend has no groups
    title.click()
    wait_for(driver, "document.querySelectorAll('#groups button').length === 40")
    assert browser.console_errors(driver) == []
    assert len(browser.requested_urls(driver)) == 1


@contextlib.contextmanager
def serve(answer):
    """A server that answers as `search serve` does; yields its address and requests."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            seen.append(self.path)
            status, content = answer(self.path)
            self.send_response(status)
            self.send_header("Access-Control-Allow-Origin", "null")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_a_server_is_asked_for_what_is_near_and_its_silence_is_told(driver, tmp_path):
    columns = embedding_tables.sample_columns(12)
    columns["path"][2] = "music/a&b=c+d e\u00e9.ogg"
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    known = [{"path": columns["path"][5], "score": 0.75}]
    known.append({"path": "elsewhere.ogg", "score": 0.5})

    def answer(asked):
        if "track%204" in asked or "track+4" in asked:
            return 404, {"error": "the index has no such path"}
        return 200, {"results": known}

    with serve(answer) as (server, seen):
        options = {"server": server, "projection": "pca", "num_neighbours": 7}
        write_lib.write_map(path, tmp_path / "map.html", **options)
        driver.get((tmp_path / "map.html").as_uri())
        driver.execute_script("colaMap.select(2, { play: false })")
        wait_for(driver, "document.querySelectorAll('#near button').length === 2")
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(seen[0]).query)
        assert query == {"path": [columns["path"][2]], "k": ["7"]}
        first, second = driver.find_elements("css selector", "#near button")
        assert first.text.split("\n") == ["track 5", "0.7500"]
        assert "elsewhere.ogg (not on this map)" in second.text
        assert not second.is_enabled()
        first.click()
        assert state(driver)["selected"] == 5
        driver.execute_script("colaMap.select(4, { play: false })")
        note = driver.find_element("id", "near-note")
        wait_for(
            driver, "document.getElementById('near-note').innerText.includes('no')"
        )
        assert note.text.endswith("says: the index has no such path.")
        assert driver.find_elements("css selector", "#near button") == []
    driver.execute_script("colaMap.select(3, { play: false })")
    wait_for(driver, "document.getElementById('near-note').innerText.includes('serve')")
    assert f"no answer from {server}" in note.text
    browser.console_errors(driver)  # what the browser itself says of these
    asked = [url for url in browser.requested_urls(driver) if url.startswith("http")]
    assert len(asked) >= 3
    assert all(url.startswith(f"{server}/neighbours?") for url in asked)


def busy_seconds(driver) -> float:
    """CPU seconds of the page's thread."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


@pytest.mark.slow
@pytest.mark.parametrize("num_tracks", [10_000, 100_000])
def test_many_tracks_move_smoothly(tmp_path, num_tracks):
    columns = embedding_tables.sample_columns(num_tracks, dim=8)
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    options = {"projection": "pca", "num_neighbours": 0, "num_clusters": 4}
    write_lib.write_map(path, tmp_path / "map.html", **options)
    with browser.open_browser(tmp_path / "p") as driver:
        driver.get((tmp_path / "map.html").as_uri())
        at_rest(driver)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        before = busy_seconds(driver)
        driver.execute_async_script(
            """
            const done = arguments[0]; let n = 0;
            const step = () => {
              if (n++ === 60) return done();
              colaMap.moveBy(60 * Math.sin(n / 5), 40 * Math.cos(n / 5));
              requestAnimationFrame(step);
            };
            requestAnimationFrame(step);
            """
        )
        assert driver.execute_script("return colaMap.timings.draws") > 1
        # A frame has 16.7 ms at 60 a second.
        assert (busy_seconds(driver) - before) / 60 < 0.0167


def test_a_folder_a_track_opens_at_once_and_the_legend_grows(tmp_path):
    """A button a group was 48 s of layout for 20,000 folders."""
    count = 20_000
    columns = embedding_tables.sample_columns(count, dim=4)
    columns["path"] = [f"music/album {n}/{n}.ogg" for n in range(count)]
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    write_lib.write_map(
        path, tmp_path / "map.html", projection="pca", num_clusters=0, num_neighbours=0
    )
    with browser.open_browser(tmp_path / "p") as driver:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        driver.get((tmp_path / "map.html").as_uri())
        driver.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )
        assert 0.0 < busy_seconds(driver) < 10.0
        count_buttons = "return document.querySelectorAll('#groups button').length"
        assert driver.execute_script(count_buttons) == 200
        more = driver.find_element("id", "more-groups")
        assert more.text == "200 more of 19,800"
        more.click()
        assert driver.execute_script(count_buttons) == 400
        assert browser.console_errors(driver) == []
