/* The floor: what the kernel itself costs. A server that knows HTTP only as far as the load needs it, and does nothing
 * but `send` each frame to each socket: no history, no ids, no checks. What a hub costs beyond it is the hub's.
 *
 *   floor PORT      GET /sub/pN: a stream;  POST /pub/pN: the body is sent to every stream of pN, in one chunk.
 *
 * Every stream gets a heartbeat each 15 s, a sixteenth of them at a time, as from the hub.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct { int *fds; uint32_t len, room; } Project;
typedef struct { char *text; size_t len, room; } Conn;

static Project *projects;
static uint32_t projects_len;
static Conn conns[1 << 17];
static int ep;

enum { BEAT_SECONDS = 15, BEATS = 16 };
static struct { int fd; uint64_t due_ns; } *streams;  /* in a ring, the one due next first */
static uint32_t streams_len, streams_room, streams_next;

static Project *project(uint32_t number) {
    if (number >= projects_len) {
        projects = realloc(projects, (number + 1) * 2 * sizeof *projects);
        memset(projects + projects_len, 0, ((number + 1) * 2 - projects_len) * sizeof *projects);
        projects_len = (number + 1) * 2;
    }
    return &projects[number];
}

static void publish(const Project *p, const char *body, size_t len, char *frame) {
    int head = sprintf(frame, "%zx\r\ndata: ", len + 8);
    memcpy(frame + head, body, len);
    memcpy(frame + head + len, "\n\n\r\n", 4);
    size_t size = (size_t)head + len + 4;
    for (uint32_t i = 0; i < p->len; i++) send(p->fds[i], frame, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void beat(void) {
    static const char ping[] = "8\r\n: ping\n\n\r\n";
    uint64_t now = now_ns();
    for (uint32_t i = 0; i < streams_len && streams[streams_next].due_ns <= now; i++) {
        if (streams[streams_next].fd >= 0) send(streams[streams_next].fd, ping, sizeof ping - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        streams[streams_next].due_ns = now + BEAT_SECONDS * 1000000000ull;
        streams_next = (streams_next + 1) % streams_len;
    }
}

/* Serves one whole request in `text`; returns its length, 0 when it isn't whole yet. */
static size_t serve(int fd, Conn *c) {
    char *end = memmem(c->text, c->len, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end + 4 - c->text), body = 0;
    uint32_t number = (uint32_t)atoi(strchr(c->text, '/') + 6);
    if (c->text[0] == 'G') {
        Project *p = project(number);
        if (p->len == p->room) p->fds = realloc(p->fds, (p->room = p->room * 2 + 4) * sizeof *p->fds);
        p->fds[p->len++] = fd;
        if (streams_len == streams_room) streams = realloc(streams, (streams_room = streams_room * 2 + 64) * sizeof *streams);
        streams[streams_len].fd = fd;
        streams[streams_len++].due_ns = now_ns() + BEAT_SECONDS * 1000000000ull;
        static const char yes[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        send(fd, yes, sizeof yes - 1, MSG_NOSIGNAL);
        return head;
    }
    char *length = memmem(c->text, head, "Content-Length: ", 16);
    if (length) body = strtoul(length + 16, NULL, 10);
    if (c->len < head + body) return 0;
    static char *frame;
    static size_t frame_room;
    if (frame_room < body + 64) frame = realloc(frame, frame_room = body + 64);
    publish(project(number), c->text + head, body, frame);
    static const char done[] = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
    send(fd, done, sizeof done - 1, MSG_NOSIGNAL);
    return head + body;
}

static void forget(int fd) {
    for (uint32_t i = 0; i < streams_len; i++) if (streams[i].fd == fd) streams[i].fd = -1;
    close(fd);
    free(conns[fd].text);
    memset(&conns[fd], 0, sizeof conns[fd]);
    for (uint32_t n = 0; n < projects_len; n++)
        for (uint32_t i = 0; i < projects[n].len; i++)
            if (projects[n].fds[i] == fd) { projects[n].fds[i] = projects[n].fds[--projects[n].len]; return; }
}

static void on_readable(int fd) {
    static char buffer[1 << 18];
    ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) forget(fd);
        return;
    }
    Conn *c = &conns[fd];
    if (c->len + (size_t)got + 1 > c->room) c->text = realloc(c->text, c->room = c->len + (size_t)got + 1);
    memcpy(c->text + c->len, buffer, (size_t)got);
    c->len += (size_t)got;
    c->text[c->len] = 0;
    for (size_t used; c->len && (used = serve(fd, c)); ) {
        memmove(c->text, c->text + used, c->len - used);
        c->len -= used;
    }
    if (!c->len) { free(c->text); c->text = NULL; c->room = 0; }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) { perror("floor"); return 1; }
    ep = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &wanted);
    for (;;) {
        struct epoll_event found[512];
        beat();
        int n = epoll_wait(ep, found, 512, BEAT_SECONDS * 1000 / BEATS);
        for (int i = 0; i < n; i++) {
            int fd = found[i].data.fd;
            if (fd != listener) { on_readable(fd); continue; }
            for (int came; (came = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0; ) {
                setsockopt(came, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                wanted.data.fd = came;
                epoll_ctl(ep, EPOLL_CTL_ADD, came, &wanted);
            }
        }
    }
}
