"""A real browser for tests: headless Chromium, driven through chromedriver's W3C WebDriver interface with urllib.

Install both on Debian with ``apt-get install chromium chromium-driver``; tests that need them are skipped where they
are not found. Nothing but the loopback interface is used.
"""
from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
CHROMEDRIVER = shutil.which('chromedriver')
MISSING = None if CHROMIUM and CHROMEDRIVER else 'chromium and chromedriver are not installed'


class Browser:
    """One window; a context manager that leaves no process and no folder behind."""

    def __init__(self, width=1200, height=900):
        self._size = width, height

    def __enter__(self):
        self._profile = tempfile.mkdtemp(prefix='chromium-')
        self._driver = subprocess.Popen([CHROMEDRIVER, '--port=0'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True)
        try:
            for line in self._driver.stdout:
                found = re.search(r'successfully on port (\d+)', line)
                if found:
                    break
            self._base = f'http://127.0.0.1:{found.group(1)}'
            width, height = self._size
            arguments = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
                         '--disable-background-networking', '--disable-component-update', '--disable-sync',
                         '--disable-dev-shm-usage', '--no-proxy-server', f'--user-data-dir={self._profile}',
                         f'--window-size={width},{height}']
            session = self._call('POST', '/session', {'capabilities': {'alwaysMatch': {
                'goog:loggingPrefs': {'browser': 'ALL'},
                'goog:chromeOptions': {'binary': CHROMIUM, 'args': arguments}}}})
            self._base += f'/session/{session["sessionId"]}'
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            if '/session/' in getattr(self, '_base', ''):
                self._call('DELETE', '')
        finally:
            self._driver.terminate()
            self._driver.wait(30)
            self._driver.stdout.close()
            shutil.rmtree(self._profile, ignore_errors=True)

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {'Content-Type': 'application/json'}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as reply:
                return json.load(reply)['value']
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:500]) from error

    def emulate(self, width, height):
        """Makes the page believe in a phone of this size, in CSS pixels."""
        self._call('POST', '/goog/cdp/execute', {'cmd': 'Emulation.setDeviceMetricsOverride', 'params': {
            'width': width, 'height': height, 'deviceScaleFactor': 2, 'mobile': True}})

    def open(self, url):
        """Loads a page."""
        self._call('POST', '/url', {'url': url})

    def run(self, script, *arguments):
        """Calls a JavaScript function body; gives what it returns."""
        return self._call('POST', '/execute/sync', {'script': script, 'args': list(arguments)})

    def click(self, css):
        """A real click in the middle of an element, which fails if something covers it."""
        self._call('POST', f'/element/{self._find(css)}/click', {})

    def pointer(self, x, y, click=False, drag=False):
        """Moves the mouse to a place in the window; `click` presses there, `drag` presses on the way."""
        press, release = {'type': 'pointerDown', 'button': 0}, {'type': 'pointerUp', 'button': 0}
        move = {'type': 'pointerMove', 'duration': 0, 'x': round(x), 'y': round(y)}
        actions = [press, move, release] if drag else [move, press, release] if click else [move]
        self._call('POST', '/actions', {'actions': [{'type': 'pointer', 'id': 'mouse', 'actions': actions,
                                                     'parameters': {'pointerType': 'mouse'}}]})

    def type(self, css, text):
        """Keys typed into an element after emptying it."""
        element = self._find(css)
        self._call('POST', f'/element/{element}/clear', {})
        self._call('POST', f'/element/{element}/value', {'text': text})

    def _find(self, css):
        return next(iter(self._call('POST', '/element', {'using': 'css selector', 'value': css}).values()))

    def log(self):
        """What was written to the console since the last call, errors of the page included."""
        return self._call('POST', '/se/log', {'type': 'browser'})

    def screenshot(self, path):
        """The window as a PNG file."""
        with open(path, 'wb') as file:
            file.write(base64.b64decode(self._call('GET', '/screenshot')))
