/* The program the tests run inside: one small task per name, linked statically. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what) {
    printf("%s: %s\n", what, strerrorname_np(errno));
    return 1;
}

static int list(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return fail(path);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir)) printf("%s\n", entry->d_name);
    return 0;
}

static int cat(const char *path) {
    char bytes[4096];
    ssize_t length;
    int fd = open(path, O_RDONLY);
    if (fd < 0) return fail(path);
    while ((length = read(fd, bytes, sizeof bytes)) > 0)
        if (write(1, bytes, length) < 0) return 1;
    return 0;
}

static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return fail(path);
    return write(fd, text, strlen(text)) < 0 ? fail(path) : 0;
}

static int fill(const char *path, long bytes) {
    static char chunk[65536];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return fail(path);
    for (ssize_t length; bytes > 0; bytes -= length)
        if ((length = write(fd, chunk, sizeof chunk)) < 0) return fail(path);
    return 0;
}

static int serve(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int server = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(server, (void *)&address, sizeof address) || listen(server, 64)) return fail("bind");
    socklen_t length = sizeof address;
    getsockname(server, (void *)&address, &length);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        char request[4096];
        int client = accept(server, 0, 0);
        if (client < 0) return fail("accept");
        if (read(client, request, sizeof request) > 0) {
            const char answer[] = "HTTP/1.0 200 OK\r\n\r\nhello from inside";
            if (write(client, answer, sizeof answer - 1) < 0) return fail("write");
        }
        close(client);
    }
}

static int dial(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    return connect(client, (void *)&address, sizeof address) ? fail("connect") : (puts("connected"), 0);
}

static void bye(int signal) { (void)signal; _exit(7); }

__attribute__((noreturn)) static int idle(void) {
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}

/* Leaves `count` grandchildren behind that end at once, then counts the zombies in /proc. */
static int orphans(int count) {
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            if (fork() == 0) { usleep(1000); _exit(0); }
            _exit(0);
        }
        waitpid(child, 0, 0);
    }
    for (;;) {
        int processes = 0;
        DIR *dir = opendir("/proc");
        for (struct dirent *entry; dir && (entry = readdir(dir));) processes += atoi(entry->d_name) > 0;
        if (dir) closedir(dir);
        if (processes == 1) { puts("only me"); return 0; }
        usleep(1000);
    }
}

int main(int argc, char **argv) {
    const char *task = argc > 1 ? argv[1] : "";
    const char *first = argc > 2 ? argv[2] : "";
    const char *second = argc > 3 ? argv[3] : "";
#define IS(name) (strcmp(task, name) == 0)
    if (IS("exit")) return atoi(first);
    if (IS("raise")) return raise(atoi(first));
    if (IS("env")) { for (char **e = environ; *e; e++) puts(*e); return 0; }
    if (IS("ids")) { printf("%d:%d pid %d\n", getuid(), getgid(), getpid()); return 0; }
    if (IS("cwd")) { puts(get_current_dir_name()); return 0; }
    if (IS("ls")) return list(first);
    if (IS("cat")) return cat(first);
    if (IS("put")) return put(first, second);
    if (IS("fill")) return fill(first, atol(second));
    if (IS("serve")) return serve(atoi(first));
    if (IS("dial")) return dial(first, atoi(second));
    if (IS("orphans")) return orphans(atoi(first));
    if (IS("idle")) return idle();
    if (IS("polite")) { signal(SIGTERM, bye); return idle(); }
    if (IS("stubborn")) { signal(SIGTERM, SIG_IGN); return idle(); }
    if (IS("family")) { if (fork() == 0) { setsid(); signal(SIGTERM, SIG_IGN); return idle(); } return idle(); }
    if (IS("locked")) { return mkdir("/locked", 0755) || put("/locked/file", "x") || chmod("/locked", 0) ? fail("mkdir") : 0; }
    if (IS("kill")) return kill(atoi(first), SIGKILL) ? fail("kill") : 0;
    if (IS("ifaces")) {
        for (struct if_nameindex *i = if_nameindex(); i->if_index; i++) puts(i->if_name);
        return 0;
    }
    if (IS("alloc")) {
        size_t bytes = (size_t)atol(first) << 20;
        char *memory = malloc(bytes);
        if (!memory) return fail("malloc");
        memset(memory, 1, bytes);
        puts("allocated");
        return 0;
    }
    if (IS("open")) {
        int count = 0;
        while (open("/", O_RDONLY) >= 0) count++;
        printf("%d %s\n", count, strerrorname_np(errno));
        return 0;
    }
    if (IS("fork")) {
        int count = 0;
        for (; count < atoi(first); count++) {
            pid_t child = fork();
            if (child < 0) break;
            if (child == 0) for (;;) pause();
        }
        printf("%d\n", count);
        return 0;
    }
    if (IS("spam")) {
        puts("first line");
        for (long i = 0, n = atol(first); i < n; i++) putchar(i % 80 == 79 ? '\n' : 'x');
        puts("\nlast line");
        return 0;
    }
    if (IS("both")) { fputs("out\n", stdout); fflush(stdout); fputs("err\n", stderr); return 0; }
    return 99;
}
