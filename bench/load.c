/* The load: readers and publishers over plain sockets, in one epoll loop, so that the hub is what is measured.
 *
 *   load HOST PORT SUBSCRIBE_PATH PUBLISH_PORT PUBLISH_PATH CONTENT_TYPE BODY_BEFORE BODY_AFTER DATA_BYTES
 *
 * `%P` in a path or body stands for the project (`p0`, `p1`, ...). It takes commands on standard input, one a line,
 * and answers each with one line of JSON on standard output:
 *
 *   open COUNT PROJECTS WINDOW REPLAY SUFFIX   COUNT more readers, reader i of project i % PROJECTS, WINDOW of them
 *                                              on their way at a time; done when each has its headers and REPLAY events
 *   post COUNT PROJECTS CONNS DEPTH GROUP RATE LINES
 *                                              COUNT requests over CONNS kept-alive connections, DEPTH of them unanswered
 *                                              on each; after every GROUP requests all deliveries are awaited (0: never);
 *                                              RATE a second (0: as fast as it goes); LINES events in each
 *   trigger COUNT                              readers that come while a trigger waits for them
 *   hold MS                                    only read, ten times a second: a peer on another machine would not have
 *                                              to be woken by the server for every byte
 *   shut                                       drop all readers (RST: no TIME_WAIT)
 *
 * An event holds the character `~` exactly once and the nanosecond of its publication behind it: counting `~` counts
 * deliveries, whatever framing a server uses, and the number gives the latency.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READER, POSTER };
enum { MAX_DEPTH = 256, MAX_SAMPLES = 4 << 20, PATIENCE_S = 60, PORTS_PER_ADDRESS = 8000 };

typedef struct {
    int fd;
    uint8_t kind, headed, ready, writing;
    uint32_t project, got;
    uint64_t began;
    /* posters only */
    char *out;
    size_t out_len, out_at, out_room;
    char in[16384];
    size_t in_len;
    uint64_t sent[MAX_DEPTH];
    unsigned sent_at, sent_len;
} Conn;

/* Readers need only the first fields: they are allocated without the rest. */
#define READER_BYTES offsetof(Conn, out)

static struct sockaddr_in server, control;
static const char *sub_path, *pub_path, *content_type, *body_before, *body_after;
static int data_bytes, ep;
static Conn **readers;
static uint32_t n_readers, n_ready, n_failed, want_replay;
static uint64_t delivered;
static uint32_t *per_project;
static uint32_t per_project_len;
static uint32_t statuses[6];
static uint64_t answers;

typedef struct { uint32_t *at; size_t len; } Samples;   /* tenths of a microsecond */
static Samples delivery_lat, answer_lat, ready_lat;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(2); }

static void sample(Samples *s, uint64_t ns) {
    if (!s->at && !(s->at = malloc(MAX_SAMPLES * sizeof *s->at))) die("malloc");
    if (s->len < MAX_SAMPLES) s->at[s->len++] = ns / 100 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 100);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *s) {
    if (!s->len) return;
    qsort(s->at, s->len, sizeof *s->at, ascending);
    printf(", \"%s_ms\": {\"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"max\": %.4f}", name, s->at[s->len / 2] / 1e4,
           s->at[s->len * 9 / 10] / 1e4, s->at[s->len * 99 / 100] / 1e4, s->at[s->len - 1] / 1e4);
    s->len = 0;
}

static char *fill(char *to, const char *template, uint32_t project) {
    for (; *template; template++) {
        if (template[0] == '%' && template[1] == 'P') { to += sprintf(to, "p%u", project); template++; }
        else *to++ = *template;
    }
    *to = 0;
    return to;
}

static int open_socket(const struct sockaddr_in *to, uint32_t number, int blocking) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0) die("socket");
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct linger reset = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    /* 28,000 ports an address are soon used up: readers come from several addresses of the loopback net. */
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7f000002u + number / PORTS_PER_ADDRESS % 100);
    setsockopt(fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    if (connect(fd, (const struct sockaddr *)to, sizeof *to) && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

/* --- readers --- */

static uint32_t count_marks(const char *at, size_t len) {
    uint32_t found = 0;
    for (size_t i = 0; i < len; i++) found += at[i] == '~';
    return found;
}

static void note_latencies(const char *at, size_t len) {
    uint64_t now = now_ns();
    const char *end = at + len;
    while ((at = memchr(at, '~', (size_t)(end - at)))) {
        if (end - ++at < 16) return;
        uint64_t then = 0;
        for (int i = 0; i < 16; i++) then = then * 10 + (uint64_t)(at[i] - '0');
        sample(&delivery_lat, now > then ? now - then : 0);
    }
}

static int measuring_latency;

static void reader_failed(Conn *c) {
    if (c->fd < 0) return;
    epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
    n_failed++;
}

static void reader_asks(Conn *c, const char *suffix) {
    char request[1024], *to = request;
    to += sprintf(to, "GET ");
    to = fill(to, sub_path, c->project);
    to += sprintf(to, "%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n", suffix,
                  ntohs(server.sin_port));
    if (write(c->fd, request, (size_t)(to - request)) != to - request) reader_failed(c);
}

static char suffix_now[256];
static char buffer[1 << 18];

static void on_reader(Conn *c, uint32_t events) {
    if (c->writing && (events & EPOLLOUT)) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) { reader_failed(c); return; }
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &wanted);
        c->writing = 0;
        reader_asks(c, suffix_now);
        return;
    }
    ssize_t len = read(c->fd, buffer, sizeof buffer);
    if (len <= 0) {
        if (len < 0 && (errno == EAGAIN || errno == EINTR)) return;
        reader_failed(c);
        return;
    }
    if (!c->headed) {
        if (len < 12 || memcmp(buffer + 8, " 200", 4)) { reader_failed(c); return; }
        c->headed = 1;
    }
    uint32_t marks = count_marks(buffer, (size_t)len);
    c->got += marks;
    delivered += marks;
    if (marks && measuring_latency) note_latencies(buffer, (size_t)len);
    if (!c->ready && c->got >= want_replay) {
        c->ready = 1;
        n_ready++;
        sample(&ready_lat, now_ns() - c->began);
    }
}

/* --- publishers --- */

static void poster_flush(Conn *c) {
    while (c->out_at < c->out_len) {
        ssize_t n = write(c->fd, c->out + c->out_at, c->out_len - c->out_at);
        if (n < 0) {
            if (errno != EAGAIN) die("write to the server");
            break;
        }
        c->out_at += (size_t)n;
    }
    int left = c->out_at < c->out_len;
    if (!left) c->out_at = c->out_len = 0;
    if (left != c->writing) {
        struct epoll_event wanted = {.events = EPOLLIN | (left ? EPOLLOUT : 0u), .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &wanted);
        c->writing = (uint8_t)left;
    }
}

static void poster_sends(Conn *c, uint32_t project, uint32_t lines) {
    char path[512], before[1024], after[1024];
    fill(path, pub_path, project);
    size_t before_len = (size_t)(fill(before, body_before, project) - before);
    size_t after_len = (size_t)(fill(after, body_after, project) - after);
    size_t line = before_len + (size_t)data_bytes + after_len + (lines > 1);
    size_t body = line * lines, need = c->out_len + body + 1024;
    if (need > c->out_room && !(c->out = realloc(c->out, c->out_room = need * 2))) die("realloc");
    char *to = c->out + c->out_len;
    to += sprintf(to, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", path,
                  ntohs(control.sin_port), lines > 1 ? "application/x-ndjson" : content_type, body);
    uint64_t now = now_ns();
    for (uint32_t i = 0; i < lines; i++) {
        memcpy(to, before, before_len);
        to += before_len;
        int n = sprintf(to, "~%016llu", (unsigned long long)now);
        memset(to + n, 'x', (size_t)(data_bytes - n));
        to += data_bytes;
        memcpy(to, after, after_len);
        to += after_len;
        if (lines > 1) *to++ = '\n';
    }
    c->out_len = (size_t)(to - c->out);
    c->sent[(c->sent_at + c->sent_len++) % MAX_DEPTH] = now;
    poster_flush(c);
}

static void poster_connects(Conn *c) {
    close(c->fd);
    if ((c->fd = open_socket(&control, 0, 0)) < 0) die("connect to the server again");
    c->writing = 1;
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &wanted);
}

static void on_poster(Conn *c, uint32_t events) {
    if (events & EPOLLOUT) poster_flush(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t len = read(c->fd, c->in + c->in_len, sizeof c->in - 1 - c->in_len);
    if (len <= 0) {
        if (len < 0 && errno == EAGAIN) return;
        fprintf(stderr, "load: the server closed a publisher's connection\n");
        exit(2);
    }
    c->in_len += (size_t)len;
    c->in[c->in_len] = 0;
    for (;;) {
        char *head_end = strstr(c->in, "\r\n\r\n");
        if (!head_end) return;
        *head_end = 0;
        size_t used = (size_t)(head_end + 4 - c->in);
        char *length = strcasestr(c->in, "\r\ncontent-length:");
        int chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != NULL;
        int last_one = strcasestr(c->in, "\r\nconnection: close") != NULL;
        *head_end = '\r';
        if (length) {
            used += (size_t)atoi(length + 17);
            if (c->in_len < used) return;
        } else if (chunked) {
            char *last = strstr(head_end + 4, "0\r\n\r\n");
            if (!last) return;
            used = (size_t)(last + 5 - c->in);
        }
        int status = atoi(c->in + 9);
        statuses[status >= 100 && status < 600 ? status / 100 : 0]++;
        if (status >= 400 && statuses[status / 100] == 1) fprintf(stderr, "load: %.400s\n", c->in);
        answers++;
        sample(&answer_lat, now_ns() - c->sent[c->sent_at]);
        c->sent_at = (c->sent_at + 1) % MAX_DEPTH;
        c->sent_len--;
        memmove(c->in, c->in + used, c->in_len - used + 1);
        c->in_len -= used;
        if (last_one) {
            c->in_len = 0;
            poster_connects(c);
            return;
        }
    }
}

/* --- the loop --- */

static int turn(int timeout_ms) {
    struct epoll_event found[512];
    int n = epoll_wait(ep, found, 512, timeout_ms);
    for (int i = 0; i < n; i++) {
        Conn *c = found[i].data.ptr;
        if (c->fd < 0) continue;
        if (c->kind == READER) on_reader(c, found[i].events);
        else on_poster(c, found[i].events);
    }
    return n;
}

static Conn *new_conn(int kind, const struct sockaddr_in *to, uint32_t number) {
    int fd = open_socket(to, number, 0);
    Conn *c = calloc(1, kind == READER ? READER_BYTES : sizeof *c);
    if (!c) die("calloc");
    c->fd = fd;
    c->kind = (uint8_t)kind;
    c->writing = 1;
    c->began = now_ns();
    if (fd < 0) { n_failed++; return c; }
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &wanted)) die("epoll_ctl");
    return c;
}

static void do_open(uint32_t count, uint32_t projects, uint32_t window, uint32_t replay) {
    uint64_t began = now_ns(), deadline = began + PATIENCE_S * 1000000000ull;
    uint32_t first = n_readers, target = n_readers + count, ready_before = n_ready, failed_before = n_failed;
    readers = realloc(readers, target * sizeof *readers);
    if (projects > per_project_len) {
        per_project = realloc(per_project, projects * sizeof *per_project);
        memset(per_project + per_project_len, 0, (projects - per_project_len) * sizeof *per_project);
        per_project_len = projects;
    }
    want_replay = replay;
    ready_lat.len = 0;
    while (n_ready - ready_before + n_failed - failed_before < count && now_ns() < deadline) {
        while (n_readers < target && n_readers - first - (n_ready - ready_before) - (n_failed - failed_before) < window) {
            uint32_t project = (n_readers - first) % projects;
            Conn *c = new_conn(READER, &server, n_readers);
            c->project = project;
            per_project[project]++;
            readers[n_readers++] = c;
        }
        turn(100);
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    printf("{\"seconds\": %.6f, \"ready\": %u, \"failed\": %u", seconds, n_ready - ready_before, n_failed - failed_before);
    print_samples("ready", &ready_lat);
    printf("}\n");
}

static void do_post(uint32_t count, uint32_t projects, uint32_t conns, uint32_t depth, uint32_t group, double rate,
                    uint32_t lines) {
    if (depth > MAX_DEPTH) depth = MAX_DEPTH;
    Conn **posters = calloc(conns, sizeof *posters);
    for (uint32_t i = 0; i < conns; i++) {
        posters[i] = new_conn(POSTER, &control, i);
        if (posters[i]->fd < 0) die("connect to the server");
    }
    turn(10);
    memset(statuses, 0, sizeof statuses);
    delivered = answers = 0;
    delivery_lat.len = answer_lat.len = 0;
    measuring_latency = 1;
    uint64_t expected = 0, began = now_ns(), last_progress = began, seen = 0;
    uint32_t sent = 0, next = 0;
    for (;;) {
        uint64_t now = now_ns();
        if (sent == count && answers == count && delivered >= expected) break;
        if (seen != delivered + answers) { seen = delivered + answers; last_progress = now; }
        if (now - last_progress > PATIENCE_S / 6 * 1000000000ull) break;
        int timeout_ms = 200;
        while (sent < count) {
            if (group && sent && sent % group == 0 && (answers < sent || delivered < expected)) break;
            if (rate > 0) {
                double due = (double)began + sent / rate * 1e9;
                now = now_ns();
                if ((double)now < due) {
                    timeout_ms = (due - (double)now) > 1.2e6 ? (int)((due - (double)now) / 1e6) : 0;
                    break;
                }
            }
            Conn *c = NULL;
            for (uint32_t i = 0; i < conns && !c; i++, next = (next + 1) % conns)
                if (posters[next]->sent_len < depth) c = posters[next];
            if (!c) break;
            uint32_t project = sent++ % projects;
            if (project < per_project_len) expected += (uint64_t)per_project[project] * lines;
            poster_sends(c, project, lines);
        }
        turn(timeout_ms);
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    measuring_latency = 0;
    printf("{\"seconds\": %.6f, \"answers\": %llu, \"status_2xx\": %u, \"delivered\": %llu, \"expected\": %llu", seconds,
           (unsigned long long)answers, statuses[2], (unsigned long long)delivered, (unsigned long long)expected);
    print_samples("answer", &answer_lat);
    print_samples("delivery", &delivery_lat);
    printf("}\n");
    for (uint32_t i = 0; i < conns; i++) {
        close(posters[i]->fd);
        free(posters[i]->out);
        free(posters[i]);
    }
    free(posters);
}

/* A trigger waits for a reader that isn't there; then one comes. From the reader's request to the trigger's answer. */
static void do_trigger(uint32_t count) {
    Samples released = {0};
    uint32_t accepted = 0;
    char text[1024], answer[4096];
    int caller = open_socket(&server, 0, 1);
    for (uint32_t k = 0; k < count; k++) {
        const char *body = "{\"name\":\"api/iterate\",\"data\":1}";
        int n = sprintf(text, "POST /projects/t%u/trigger?timeout=10s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        k, ntohs(server.sin_port), strlen(body), body);
        if (write(caller, text, (size_t)n) != n) die("write");
        usleep(3000);
        int reader = open_socket(&server, k, 1);
        n = sprintf(text, "GET /projects/t%u/events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", k, ntohs(server.sin_port));
        usleep(2000);
        uint64_t began = now_ns();
        if (write(reader, text, (size_t)n) != n) die("write");
        ssize_t got = read(caller, answer, sizeof answer);
        sample(&released, now_ns() - began);
        accepted += got > 12 && !memcmp(answer + 8, " 202", 4);
        usleep(1000);
        close(reader);
    }
    close(caller);
    printf("{\"triggers\": %u, \"accepted\": %u", count, accepted);
    print_samples("released", &released);
    printf("}\n");
    free(released.at);
}

static void do_hold(uint32_t ms) {
    uint64_t until = now_ns() + ms * 1000000ull;
    delivered = 0;
    while (now_ns() < until) {
        usleep(100000);
        while (turn(0) > 0) {}
    }
    printf("{\"delivered\": %llu}\n", (unsigned long long)delivered);
}

static void do_shut(void) {
    uint32_t open_ones = 0;
    for (uint32_t i = 0; i < n_readers; i++) {
        if (readers[i]->fd >= 0) { close(readers[i]->fd); open_ones++; }
        free(readers[i]);
    }
    n_readers = n_ready = n_failed = 0;
    if (per_project) memset(per_project, 0, per_project_len * sizeof *per_project);
    printf("{\"closed\": %u}\n", open_ones);
}

int main(int argc, char **argv) {
    if (argc != 10) { fprintf(stderr, "load: nine arguments, see the head of load.c\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    server.sin_family = control.sin_family = AF_INET;
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    control.sin_addr = server.sin_addr;
    server.sin_port = htons((uint16_t)atoi(argv[2]));
    sub_path = argv[3];
    control.sin_port = htons((uint16_t)atoi(argv[4]));
    pub_path = argv[5];
    content_type = argv[6];
    body_before = argv[7];
    body_after = argv[8];
    data_bytes = atoi(argv[9]) < 17 ? 17 : atoi(argv[9]);
    ep = epoll_create1(EPOLL_CLOEXEC);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char line[512];
    unsigned a, b, c, d, e, g;
    double rate;
    while (fgets(line, sizeof line, stdin)) {
        suffix_now[0] = 0;
        if (sscanf(line, "open %u %u %u %u %255s", &a, &b, &c, &d, suffix_now) >= 4) do_open(a, b, c, d);
        else if (sscanf(line, "post %u %u %u %u %u %lf %u", &a, &b, &c, &d, &e, &rate, &g) == 7)
            do_post(a, b, c, d, e, rate, g);
        else if (sscanf(line, "trigger %u", &a) == 1) do_trigger(a);
        else if (sscanf(line, "hold %u", &a) == 1) do_hold(a);
        else if (!strncmp(line, "shut", 4)) do_shut();
        else { fprintf(stderr, "load: not a command: %s", line); return 2; }
    }
    return 0;
}
